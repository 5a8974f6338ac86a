// node-postgres (pg) and pg-cursor: simple and extended queries, named statements, cursors, notices, notifications, errors.
// NODE_PATH says where the modules are; the PG* environment says where the database is.
"use strict";
const { Client } = require("pg");
const Cursor = require("pg-cursor");

const steps = [];
let notices = [];
let rows = 0;

function plain(value) {
  if (Buffer.isBuffer(value)) return value.toString("hex");
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  return value === undefined ? null : value;
}

async function step(name, action) {
  let shown;
  try {
    shown = plain(await action());
  } catch (error) {
    shown = { error: error.name, sqlstate: error.code || null, text: error.message, detail: error.detail || null };
  }
  steps.push([name, shown, notices]);
  notices = [];
}

async function main() {
  const client = new Client({ ssl: false });
  client.on("notice", (n) => notices.push([n.severity, n.code, n.message]));
  client.on("error", (e) => notices.push(["connection", e.code || null, e.message]));
  await client.connect();
  const ask = async (...query) => {
    const result = await client.query(...query);
    const results = Array.isArray(result) ? result : [result];
    for (const one of results) rows += one.rows.length;
    return results.map((r) => [r.command, r.rowCount, r.rows]);
  };
  await step("simple", () => ask("SELECT * FROM patient WHERE id <= 35 ORDER BY id"));
  await step("parameters", () => ask("SELECT id, nom FROM patient WHERE id = ANY($1) ORDER BY id", [[3, 4, 299]]));
  for (let n = 1; n < 5; n++)
    await step("named", () => ask({ name: "par-id", text: "SELECT nom, photo FROM patient WHERE id = $1", values: [n] }));
  await step("as arrays", () => ask({ text: "SELECT id, unite FROM sejour WHERE id <= 20 ORDER BY id", rowMode: "array" }));
  await step("binary", () => ask({ text: "SELECT id FROM patient WHERE id < 9 ORDER BY id", values: [], binary: true }));
  await step("several", () => ask("SELECT 1 AS a; INSERT INTO journal (qui, quoi) VALUES ('n', 'n0'); SELECT 2 AS b, 3 AS c"));
  await step("empty", () => ask(""));
  await step("notices", () => ask("SELECT bavard(6)"));
  for (const query of ["SELECT * FROM nulle_part", "SELEC 1", "SELECT 1/(id - 12) FROM patient ORDER BY id", "INSERT INTO journal (qui, quoi) VALUES ('n', 'n0')"]) {
    await step("error", () => ask(query));
    await step("error, extended", () => ask(query, []));
  }
  await step("queued", () => Promise.all([...Array(50).keys()].map((n) => ask("SELECT $1::int + 1 AS n", [n]))));
  await step("queued with errors", async () => {
    const all = await Promise.allSettled([1, 0, 2, 0, 3].map((n) => ask("SELECT 6 / $1::int AS n", [n])));
    return all.map((one) => one.status === "fulfilled" ? one.value : one.reason.code);
  });
  await step("cursor", async () => {
    const cursor = client.query(new Cursor("SELECT id, debut FROM sejour WHERE id <= $1 ORDER BY id", [230]));
    const found = [];
    for (;;) {
      const part = await cursor.read(60);
      rows += part.length;
      found.push(part.length);
      if (!part.length) break;
    }
    await cursor.close();
    return found;
  });
  await step("cursor closed early", async () => {
    const cursor = client.query(new Cursor("SELECT id FROM sejour ORDER BY id"));
    const part = await cursor.read(25);
    rows += part.length;
    await cursor.close();
    return part;
  });
  await step("cursor with an error", async () => {
    const cursor = client.query(new Cursor("SELECT 1/(id - 12) AS n FROM patient ORDER BY id"));
    const part = await cursor.read(5);
    rows += part.length;
    try {
      return await cursor.read(100);
    } finally {
      rows += 6; // delivered before the row that fails
      await cursor.close().catch(() => {});
    }
  });
  await step("transaction", async () => {
    await ask("BEGIN");
    await ask("INSERT INTO journal (qui, quoi) VALUES ('n', $1)", ["n1"]);
    await ask("SAVEPOINT s");
    await ask("SELECT 1/0").catch((e) => notices.push(e.code));
    await ask("ROLLBACK TO s");
    await ask("COMMIT");
    return ask("SELECT count(*)::int FROM journal");
  });
  await step("notification", async () => {
    await ask("LISTEN canal");
    const heard = new Promise((resolve) => client.once("notification", (n) => resolve([n.channel, n.payload])));
    await ask("SELECT pg_notify('canal', 'salut')");
    return heard;
  });
  await step("big", async () => (await ask("SELECT repeat('x', 700000) AS x"))[0][2][0].x.length);
  await client.end();

  await step("wrong password", async () => {
    const wrong = new Client({ ssl: false, password: "wrong" });
    wrong.on("error", () => {});
    await wrong.connect();
  });
  console.log(JSON.stringify({ steps, rows }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
