// pgjdbc behind a guard with a budget of 500 rows in two seconds: what it sees of a cut, and whether it can go on.

import java.io.ByteArrayOutputStream;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.copy.CopyManager;

public class CutJdbc {
    interface Action { void run() throws Exception; }

    static String state(Action action) throws Exception {
        try {
            action.run();
            return "no error";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static int count(Connection c, String query) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(query)) {
            int n = 0;
            while (r.next()) n++;
            return n;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Properties p = new Properties();
        p.setProperty("user", System.getenv("PGUSER"));
        p.setProperty("password", System.getenv("PGPASSWORD"));
        p.setProperty("sslmode", "disable");
        p.setProperty("gssEncMode", "disable");
        Connection c = DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), p);
        c.setAutoCommit(false);
        int[] rows = {0};
        String first = state(() -> {
            try (Statement s = c.createStatement()) {
                s.setFetchSize(100);
                ResultSet r = s.executeQuery("SELECT id FROM patient ORDER BY id");
                while (r.next()) rows[0]++;
            }
        });
        System.out.println("statement " + first + " " + rows[0] + " rows");
        boolean usable = !c.isClosed();
        if (usable) {
            c.rollback();
            c.setAutoCommit(true);
        }
        System.out.println("valid " + usable);
        if (!usable) return;
        c.setAutoCommit(false);
        System.out.println("fetch size " + state(() -> {
            try (Statement s = c.createStatement()) {
                s.setFetchSize(50);
                s.executeQuery("SELECT * FROM patient");
            }
        }));
        c.rollback();
        c.setAutoCommit(true);
        System.out.println("prepared " + state(() -> {
            try (var s = c.prepareStatement("SELECT * FROM patient WHERE id > ?")) {
                s.setInt(1, 0);
                s.executeQuery();
            }
        }));
        System.out.println("batch " + state(() -> {
            try (Statement s = c.createStatement()) {
                s.execute("CREATE TEMP TABLE IF NOT EXISTS many (a int)");
            }
            try (var s = c.prepareStatement("INSERT INTO many VALUES (?)")) {
                for (int n = 0; n < 20; n++) {
                    s.setInt(1, n);
                    s.addBatch();
                }
                s.executeBatch();
            }
        }));
        CopyManager copy = new CopyManager(c.unwrap(org.postgresql.core.BaseConnection.class));
        System.out.println("copy " + state(() -> copy.copyOut("COPY patient TO STDOUT", new ByteArrayOutputStream())));
        Thread.sleep(2700);
        System.out.println("after the window " + count(c, "SELECT id FROM patient WHERE id <= 300"));
        c.setAutoCommit(false);
        System.out.println("in a transaction " + count(c, "SELECT 1"));
        c.commit();
        c.setAutoCommit(true);
        String last = state(() -> count(c, "INSERT INTO many SELECT generate_series(1, 600) RETURNING a"));
        Thread.sleep(300);
        String usable2 = state(() -> count(c, "SHOW application_name"));
        System.out.println("with effects " + last + (usable2.equals("no error") ? ", open" : ", closed"));
    }
}
