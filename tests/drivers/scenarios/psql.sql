\set ON_ERROR_STOP off
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\encoding UTF8
\pset pager off
SELECT id, nom, naissance, poids, tags FROM patient WHERE id <= 30 ORDER BY id;
\x
SELECT * FROM patient WHERE id = 7;
\x
SELECT 1 \; SELECT 2, 3 \; TABLE journal;
SELECT nom FROM patient WHERE id = $1 \bind 5 \g
SELECT bavard(2);
SELECT * FROM nulle_part;
SELECT 1 / (id - 12) FROM patient ORDER BY id;
SELEC 1;
\gdesc
SELECT id, photo FROM patient \gdesc
\set FETCH_COUNT 50
SELECT id, unite, debut FROM sejour ORDER BY id;
\unset FETCH_COUNT
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM patient ORDER BY id;
FETCH 5 FROM c;
MOVE FORWARD 100 IN c;
FETCH BACKWARD 3 FROM c;
SAVEPOINT s;
SELECT 1/0;
ROLLBACK TO s;
COMMIT;
\copy (SELECT id, nom FROM patient WHERE id <= 40 ORDER BY id) TO STDOUT
COPY (SELECT id, nom FROM patient WHERE id <= 10 ORDER BY id) TO STDOUT (FORMAT csv);
COPY journal (qui, quoi) FROM STDIN;
psql	un
psql	deux
\.
COPY journal (qui, quoi) FROM STDIN;
trop	de	champs
\.
INSERT INTO journal (qui, quoi) VALUES ('psql', 'trois') RETURNING qui, quoi;
CREATE TABLE copie AS SELECT * FROM patient WHERE id <= 12;
\d patient
\dt care.*
\df care.bavard
LISTEN canal;
DO $$ BEGIN RAISE INFO 'bonjour'; RAISE EXCEPTION 'non' USING ERRCODE = 'ZZ001', DETAIL = 'secret'; END $$;
SHOW server_encoding;
\crosstabview
SELECT n, n % 2 AS pair, n * n FROM generate_series(1, 4) AS n \crosstabview
SELECT format('SELECT %s AS n', n) FROM generate_series(1, 3) AS n \gexec
SELECT count(*) FROM journal;
