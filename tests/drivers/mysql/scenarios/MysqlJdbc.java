// MySQL Connector/J and MariaDB Connector/J (DBURL says which): text and server-prepared statements, fetch sizes with a server
// cursor, streaming, batches (MariaDB: bulk), procedures with OUT parameters, several results, compression, errors.

import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

public class MysqlJdbc {
    interface Action { Object run() throws Exception; }

    static final List<String> steps = new ArrayList<>();
    static long rows = 0;

    static String json(Object value) {
        if (value == null) return "null";
        if (value instanceof Number || value instanceof Boolean) return value.toString();
        if (value instanceof List<?> list) {
            StringBuilder out = new StringBuilder("[");
            for (int i = 0; i < list.size(); i++) out.append(i == 0 ? "" : ", ").append(json(list.get(i)));
            return out.append("]").toString();
        }
        StringBuilder out = new StringBuilder("\"");
        for (char c : value.toString().toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < 32) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append("\"").toString();
    }

    static void step(String name, Action action) {
        Object shown;
        try {
            shown = action.run();
        } catch (SQLException error) {
            shown = Arrays.asList("error", error.getSQLState(), error.getErrorCode());
        } catch (Exception error) {
            shown = Arrays.asList("error", error.getClass().getName());
        }
        steps.add("[" + json(name) + ", " + json(shown) + ", []]");
    }

    static List<Object> all(ResultSet found) throws SQLException {
        List<Object> out = new ArrayList<>();
        int columns = found.getMetaData().getColumnCount();
        while (found.next()) {
            rows++;
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= columns; i++) {
                Object value = found.getObject(i);
                if (value instanceof byte[] bytes) value = bytes.length + " bytes " + Arrays.hashCode(bytes);
                if (value instanceof String text && text.length() > 1000) value = text.length();
                row.add(value instanceof Number || value == null ? value : value.toString());
            }
            out.add(row);
        }
        return out;
    }

    static Object ask(Connection c, String sql) throws SQLException {
        List<Object> out = new ArrayList<>();
        try (Statement s = c.createStatement()) {
            boolean result = s.execute(sql);
            while (true) {
                if (result) { try (ResultSet r = s.getResultSet()) { out.add(all(r)); } }
                else if (s.getUpdateCount() < 0) break;
                else out.add(s.getUpdateCount());
                result = s.getMoreResults();
            }
        }
        return out;
    }

    static Connection open(String more) throws SQLException {
        String url = System.getenv("DBURL") + "://127.0.0.1:" + System.getenv("DBPORT") + "/" + System.getenv("DBNAME")
            + "?sslMode=" + (mysql() ? "DISABLED" : "disable") + "&allowMultiQueries=true" + more;
        return DriverManager.getConnection(url, System.getenv("DBUSER"), System.getenv("DBPASSWORD"));
    }

    static boolean mysql() { return System.getenv("DBURL").equals("jdbc:mysql"); }

    static void scenario(Connection c) throws Exception {
        step("all types", () -> ask(c, "SELECT * FROM patient WHERE id <= 20 ORDER BY id"));
        step("several", () -> ask(c, "SELECT 1; INSERT INTO journal (qui) VALUES ('j'); SELECT id FROM patient WHERE id < 4"));
        try (PreparedStatement p = c.prepareStatement("SELECT * FROM patient WHERE id <= ? ORDER BY id")) {
            for (int n : new int[] {3, 11, 0, 5}) {
                step("prepared", () -> { p.setInt(1, n); try (ResultSet r = p.executeQuery()) { return all(r); } });
            }
        }
        step("batch", () -> {
            try (PreparedStatement p = c.prepareStatement("INSERT INTO journal (qui, quoi) VALUES (?, ?)")) {
                for (int i = 0; i < 30; i++) { p.setString(1, "b"); p.setString(2, "b" + i); p.addBatch(); }
                return p.executeBatch().length;
            }
        });
        step("batch with an error", () -> {
            try (PreparedStatement p = c.prepareStatement("INSERT INTO journal (qui, quoi) VALUES (?, ?)")) {
                for (String quoi : new String[] {"e1", "b3", "e2"}) { p.setString(1, "e"); p.setString(2, quoi); p.addBatch(); }
                return p.executeBatch().length;
            }
        });
        step("cursor", () -> {
            try (PreparedStatement p = c.prepareStatement("SELECT id, patient_id FROM sejour WHERE id <= ? ORDER BY id")) {
                p.setFetchSize(50);
                p.setInt(1, 230);
                try (ResultSet r = p.executeQuery()) { return all(r).size(); }
            }
        });
        step("cursor closed early", () -> {
            try (PreparedStatement p = c.prepareStatement("SELECT id FROM sejour ORDER BY id")) {
                p.setFetchSize(25);
                try (ResultSet r = p.executeQuery()) { r.next(); return r.getInt(1); }
            }
        });
        step("streamed", () -> {
            try (Statement s = c.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY)) {
                s.setFetchSize(mysql() ? Integer.MIN_VALUE : 40);
                try (ResultSet r = s.executeQuery("SELECT id FROM sejour ORDER BY id")) { return all(r).size(); }
            }
        });
        step("procedure", () -> {
            try (CallableStatement p = c.prepareCall("{CALL deux(?, ?)}")) {
                p.setInt(1, 4);
                p.registerOutParameter(2, Types.INTEGER);
                boolean result = p.execute();
                List<Object> out = new ArrayList<>();
                while (result) { try (ResultSet r = p.getResultSet()) { out.add(all(r)); } result = p.getMoreResults(); }
                out.add(p.getInt(2));
                return out;
            }
        });
        for (String sql : new String[] {"SELECT * FROM nulle_part", "SELEC 1", "SELECT (SELECT id FROM patient)", "SIGNAL SQLSTATE '45000'"}) {
            step("error", () -> ask(c, sql));
            step("error, prepared", () -> { try (PreparedStatement p = c.prepareStatement(sql)) { return p.execute(); } });
        }
        step("transaction", () -> {
            c.setAutoCommit(false);
            ask(c, "INSERT INTO journal (qui, quoi) VALUES ('t', 't1')");
            c.rollback();
            c.setAutoCommit(true);
            return ask(c, "SELECT COUNT(*) FROM journal");
        });
        step("metadata", () -> { try (ResultSet r = c.getMetaData().getColumns(null, null, "sejour", "%")) { int n = 0; while (r.next()) n++; return n; } });
        if (System.getenv("RECORD_TRANSCRIPTS") == null) step("big", () -> ask(c, "SELECT REPEAT('x', 20000000)"));
        step("valid", () -> c.isValid(3));
    }

    public static void main(String[] args) throws Exception {
        try (Connection c = open("")) { scenario(c); }
        try (Connection c = open(mysql() ? "&useServerPrepStmts=true&useCursorFetch=true&cachePrepStmts=true" : "&useServerPrepStmts=true&useBulkStmts=true&cachePrepStmts=true")) { scenario(c); }
        try (Connection c = open("&useCompression=true")) {
            step("compressed", () -> ask(c, "SELECT id, nom, texte FROM patient ORDER BY id"));
            step("compressed again", () -> ask(c, "SELECT 1"));
        }
        step("wrong password", () -> DriverManager.getConnection(System.getenv("DBURL") + "://127.0.0.1:" + System.getenv("DBPORT") + "/clinic?sslMode=" + (mysql() ? "DISABLED" : "disable"), "app", "wrong"));
        System.out.println("{\"steps\": [" + String.join(", ", steps) + "], \"rows\": " + rows + "}");
    }
}
