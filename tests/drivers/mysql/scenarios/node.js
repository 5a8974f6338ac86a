// mysql2 and MariaDB's connector for Node: text and prepared statements, several results, streams, LOCAL INFILE, change of
// user, compression, errors. NODE_PATH says where the modules are; the DB* environment says where the database is.
"use strict";
const { Readable } = require("stream");
const mysql2 = require("mysql2/promise");
const mariadb = require("mariadb");

const steps = [];
let rows = 0;
const base = {
  host: "127.0.0.1", port: Number(process.env.DBPORT), user: process.env.DBUSER, password: process.env.DBPASSWORD,
  database: process.env.DBNAME, multipleStatements: true,
};

function plain(value) {
  if (Buffer.isBuffer(value)) return value.length > 1000 ? value.length : value.toString("hex");
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "string" && value.length > 1000) return value.length;
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
    shown = { error: error.name, sqlstate: error.sqlState || null, code: error.errno || null };
  }
  steps.push([name, shown, []]);
}

async function withMysql2() {
  const c = await mysql2.createConnection({ ...base, infileStreamFactory: () => Readable.from([Buffer.from("n,n1\n"), Buffer.from("n,n2\n")]) });
  const ask = async (...q) => {
    const [found] = await c.query(...q);
    return found;
  };
  const run = async (...q) => (await c.execute(...q))[0];
  await step("text", () => ask("SELECT * FROM patient WHERE id <= 20 ORDER BY id"));
  for (const n of [3, 9, 0]) await step("prepared", () => run("SELECT * FROM patient WHERE id <= ? ORDER BY id", [n]));
  await step("several", () => ask("SELECT 1; SELECT id FROM patient WHERE id < 5; SELECT 2"));
  await step("procedure", () => ask("CALL deux(4, @t)"));
  await step("prepared procedure", () => run("CALL deux(?, @t)", [4]));
  for (const q of ["SELECT * FROM nulle_part", "SELEC 1", "SELECT (SELECT id FROM patient)"]) {
    await step("error", () => ask(q));
    await step("error, prepared", () => run(q));
  }
  await step("infile", () => ask({ sql: "LOAD DATA LOCAL INFILE 'x' INTO TABLE journal FIELDS TERMINATED BY ',' (qui, quoi)", infileStreamFactory: () => Readable.from([Buffer.from("n,n1\n"), Buffer.from("n,n2\n")]) }));
  await step("transaction", async () => {
    await c.beginTransaction();
    await run("INSERT INTO journal (qui, quoi) VALUES (?, ?)", ["t", "t1"]);
    await c.rollback();
    return ask("SELECT COUNT(*) AS n FROM journal");
  });
  await step("queued", () => Promise.all([...Array(30).keys()].map((n) => run("SELECT ? + 1 AS n", [n]))));
  if (!process.env.RECORD_TRANSCRIPTS) await step("big", () => ask("SELECT REPEAT('x', 20000000) AS x"));
  await step("change user", async () => {
    await c.changeUser({ user: "other", password: process.env.DBPASSWORD, database: process.env.DBNAME });
    return ask("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1) AS u");
  });
  await step("after the change", () => run("SELECT id FROM patient WHERE id < ?", [7]));
  await step("ping", () => c.ping());
  await c.end();
  const z = await mysql2.createConnection({ ...base, compress: true });
  await step("compressed", async () => (await z.query("SELECT * FROM patient"))[0].length);
  await step("compressed, prepared", async () => (await z.execute("SELECT nom FROM patient WHERE id < ?", [50]))[0]);
  await z.end();
  await step("wrong password", () => mysql2.createConnection({ ...base, password: "wrong" }));
}

async function withMariadb() {
  const c = await mariadb.createConnection({ ...base, pipelining: true });
  await step("mariadb text", () => c.query("SELECT * FROM patient WHERE id <= 15 ORDER BY id"));
  await step("mariadb prepared", () => c.execute("SELECT id, nom FROM patient WHERE id <= ?", [9]));
  await step("mariadb prepared again", () => c.execute("SELECT id, nom FROM patient WHERE id <= ?", [5]));
  await step("mariadb batch", () => c.batch("INSERT INTO journal (qui, quoi) VALUES (?, ?)", [...Array(20).keys()].map((n) => ["b", "b" + n])));
  await step("mariadb several", () => c.query("SELECT 1; SELECT id FROM patient WHERE id < 5"));
  await step("mariadb queued", () => Promise.all([...Array(20).keys()].map((n) => c.query("SELECT ? + 1 AS n", [n]))));
  await step("mariadb error", () => c.query("SELECT * FROM nulle_part"));
  await step("mariadb error, prepared", () => c.execute("SELECT * FROM nulle_part WHERE id = ?", [1]));
  await step("mariadb stream", async () => {
    let n = 0;
    for await (const _ of c.queryStream("SELECT id FROM sejour")) n++;
    return n;
  });
  await step("mariadb reset", () => c.reset().catch((e) => e.errno));
  await step("mariadb change user", () => c.changeUser({ user: "other", password: process.env.DBPASSWORD, database: process.env.DBNAME }));
  await step("mariadb after", () => c.query("SELECT id FROM patient WHERE id < 4"));
  await c.end();
  const z = await mariadb.createConnection({ ...base, compress: true });
  await step("mariadb compressed", async () => (await z.query("SELECT * FROM patient")).length);
  await z.end();
}

withMysql2()
  .then(withMariadb)
  .then(() => console.log(JSON.stringify({ steps, rows })))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
