// pgjdbc: statements, server-prepared statements, fetch sizes, batches, COPY, refcursors, the fastpath (function calls),
// notices, notifications, cancel. Prints the steps as JSON. Run: java -cp postgresql.jar Jdbc.java

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public class Jdbc {
    interface Action { Object run() throws Exception; }

    static final List<String> steps = new ArrayList<>();
    static long rows = 0;

    static String json(Object value) {
        if (value == null) return "null";
        if (value instanceof Number || value instanceof Boolean) return value.toString();
        if (value instanceof List) {
            StringBuilder out = new StringBuilder("[");
            for (Object one : (List<?>) value) out.append(out.length() > 1 ? "," : "").append(json(one));
            return out + "]";
        }
        if (value instanceof int[]) return json(Arrays.toString((int[]) value));
        if (value instanceof byte[]) return json(new String((byte[]) value, StandardCharsets.ISO_8859_1));
        StringBuilder out = new StringBuilder("\"");
        for (char c : value.toString().toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < 32) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out + "\"";
    }

    static void step(String name, Action action) {
        Object shown;
        try {
            shown = action.run();
        } catch (SQLException error) {
            List<Object> chain = new ArrayList<>();
            for (SQLException e = error; e != null; e = e.getNextException()) chain.add(Arrays.asList(e.getSQLState(), e.getMessage()));
            shown = Arrays.asList("error", error.getClass().getSimpleName(), chain);
        } catch (Exception error) {
            shown = Arrays.asList("error", error.toString());
        }
        steps.add("[" + json(name) + "," + json(shown) + "]");
    }

    static List<Object> all(ResultSet result) throws SQLException {
        List<Object> out = new ArrayList<>();
        int columns = result.getMetaData().getColumnCount();
        while (result.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= columns; i++) row.add(result.getMetaData().getColumnType(i) == Types.BINARY ? result.getBytes(i) : result.getString(i));
            out.add(row);
        }
        rows += out.size();
        return out;
    }

    static List<Object> ask(Connection c, String query) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(query)) {
            return all(r);
        }
    }

    static Connection connect(String... settings) throws SQLException {
        Properties p = new Properties();
        p.setProperty("user", System.getenv("PGUSER"));
        p.setProperty("password", System.getenv("PGPASSWORD"));
        p.setProperty("sslmode", "disable");
        p.setProperty("gssEncMode", "disable");
        for (int i = 0; i < settings.length; i += 2) p.setProperty(settings[i], settings[i + 1]);
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), p);
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection c = connect()) {
            queries(c, "extended");
            batches(c);
            copies(c);
            others(c);
        }
        try (Connection c = connect("preferQueryMode", "simple")) {
            queries(c, "simple");
        }
        step("wrong password", () -> connect("password", "wrong"));
        System.out.println("{\"steps\":[" + String.join(",", steps) + "],\"rows\":" + rows + "}");
    }

    static void queries(Connection c, String mode) throws Exception {
        step(mode + " statement", () -> ask(c, "SELECT * FROM patient WHERE id <= 30 ORDER BY id"));
        step(mode + " prepared beyond the threshold", () -> {
            List<Object> out = new ArrayList<>();
            try (var s = c.prepareStatement("SELECT id, nom, naissance, poids, photo, ouvert FROM patient WHERE id BETWEEN ? AND ? ORDER BY id")) {
                for (int n = 1; n < 10; n++) {
                    s.setInt(1, n);
                    s.setInt(2, n + 3);
                    out.add(all(s.executeQuery()));
                }
            }
            return out;
        });
        step(mode + " fetch size", () -> {
            c.setAutoCommit(false);
            try (Statement s = c.createStatement()) {
                s.setFetchSize(70);
                return all(s.executeQuery("SELECT id, unite FROM sejour WHERE id <= 200 ORDER BY id"));
            } finally {
                c.commit();
                c.setAutoCommit(true);
            }
        });
        step(mode + " several", () -> {
            List<Object> out = new ArrayList<>();
            try (Statement s = c.createStatement()) {
                boolean is = s.execute("SELECT 1; UPDATE journal SET qui = qui; SELECT 2, 3");
                for (;;) {
                    if (is) out.add(all(s.getResultSet()));
                    else if (s.getUpdateCount() == -1) break;
                    else out.add(s.getUpdateCount());
                    is = s.getMoreResults();
                }
            }
            return out;
        });
        step(mode + " keys", () -> {
            try (var s = c.prepareStatement("INSERT INTO journal (qui, quoi) VALUES ('j', ?)", new String[] {"id"})) {
                s.setString(1, "clé " + mode);
                s.executeUpdate();
                return all(s.getGeneratedKeys());
            }
        });
        for (String query : List.of("SELECT * FROM nulle_part", "SELEC 1", "SELECT 1/0", "INSERT INTO journal (qui) VALUES (NULL)"))
            step(mode + " error", () -> ask(c, query));
        step(mode + " error in its middle", () -> {
            try {
                return ask(c, "SELECT 1/(id - 12) FROM patient ORDER BY id");
            } finally {
                rows += 11; // delivered before the row that fails
            }
        });
        step(mode + " warnings", () -> {
            try (Statement s = c.createStatement()) {
                List<Object> out = new ArrayList<>(all(s.executeQuery("SELECT bavard(8)")));
                for (SQLWarning w = s.getWarnings(); w != null; w = w.getNextWarning()) out.add(Arrays.asList(w.getSQLState(), w.getMessage()));
                return out;
            }
        });
    }

    static void batches(Connection c) throws Exception {
        step("batch", () -> {
            try (var s = c.prepareStatement("INSERT INTO journal (qui, quoi) VALUES ('lot', ?)")) {
                for (int n = 0; n < 60; n++) {
                    s.setString(1, "lot " + n);
                    s.addBatch();
                }
                return s.executeBatch();
            }
        });
        step("batch with an error inside", () -> {
            try (var s = c.prepareStatement("INSERT INTO journal (qui, quoi) VALUES ('lot', ?)")) {
                for (String one : List.of("neuf 1", "neuf 2", "lot 5", "neuf 3")) {
                    s.setString(1, one);
                    s.addBatch();
                }
                return s.executeBatch();
            } catch (BatchUpdateException error) {
                return Arrays.asList(error.getSQLState(), Arrays.toString(error.getUpdateCounts()));
            }
        });
        step("still in step", () -> ask(c, "SELECT count(*) FROM journal"));
        step("savepoint", () -> {
            c.setAutoCommit(false);
            try {
                Savepoint p = c.setSavepoint("p");
                try {
                    ask(c, "SELECT 1/0");
                } catch (SQLException error) {
                    c.rollback(p);
                }
                return ask(c, "SELECT 1");
            } finally {
                c.commit();
                c.setAutoCommit(true);
            }
        });
    }

    static void copies(Connection c) throws Exception {
        CopyManager copy = new CopyManager(c.unwrap(org.postgresql.core.BaseConnection.class));
        for (String options : List.of("", "(FORMAT csv)", "(FORMAT binary)"))
            step("copy out " + options, () -> {
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                copy.copyOut("COPY (SELECT id, nom, photo FROM patient WHERE id <= 60 ORDER BY id) TO STDOUT " + options, out);
                rows += 60;
                return out.toByteArray();
            });
        step("copy in", () -> copy.copyIn("COPY journal (qui, quoi) FROM STDIN", new ByteArrayInputStream("x\tx1\nx\tx2\n".getBytes())));
        step("copy in, refused", () -> copy.copyIn("COPY journal (qui, quoi) FROM STDIN", new ByteArrayInputStream("x\n".getBytes())));
    }

    static void others(Connection c) throws Exception {
        PGConnection pg = c.unwrap(PGConnection.class);
        step("refcursor", () -> {
            c.setAutoCommit(false);
            try (var s = c.prepareCall("{? = call curseur(?)}")) {
                s.registerOutParameter(1, Types.REF_CURSOR);
                s.setInt(2, 15);
                s.execute();
                rows += 1;
                try (ResultSet r = (ResultSet) s.getObject(1)) {
                    return all(r);
                }
            } finally {
                c.commit();
                c.setAutoCommit(true);
            }
        });
        step("large object by function calls", () -> {
            c.setAutoCommit(false);
            try {
                LargeObjectManager m = pg.getLargeObjectAPI();
                long oid = m.createLO(LargeObjectManager.READWRITE);
                try (LargeObject o = m.open(oid, LargeObjectManager.READWRITE)) {
                    o.write("un document, en morceaux".getBytes());
                    o.seek(3);
                    return new String(o.read(12));
                }
            } finally {
                c.commit();
                c.setAutoCommit(true);
            }
        });
        step("notification", () -> {
            try (Statement s = c.createStatement()) {
                s.execute("LISTEN canal");
                s.execute("NOTIFY canal, 'coucou'");
            }
            List<Object> out = new ArrayList<>();
            for (PGNotification n : pg.getNotifications(10_000)) out.add(Arrays.asList(n.getName(), n.getParameter()));
            return out;
        });
        step("time-out by cancel", () -> {
            try (Statement s = c.createStatement()) {
                s.setQueryTimeout(1);
                return all(s.executeQuery("SELECT pg_sleep(30)"));
            }
        });
        step("after the cancel", () -> ask(c, "SELECT 1"));
        step("tables", () -> {
            List<Object> out = new ArrayList<>();
            try (ResultSet r = c.getMetaData().getTables(null, "care", "%", new String[] {"TABLE"})) {
                while (r.next()) out.add(r.getString("TABLE_NAME"));
            }
            return out;
        });
        step("columns", () -> {
            List<Object> out = new ArrayList<>();
            try (ResultSet r = c.getMetaData().getColumns(null, "care", "patient", "%")) {
                while (r.next()) out.add(Arrays.asList(r.getString("COLUMN_NAME"), r.getString("TYPE_NAME")));
            }
            return out;
        });
    }
}
