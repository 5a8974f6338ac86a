-- What every scenario starts from; run by the superuser before each, so that each finds the same.
DROP SCHEMA IF EXISTS care CASCADE;
CREATE SCHEMA care AUTHORIZATION app;
SET search_path = care;
SET ROLE app;
CREATE TYPE humeur AS ENUM ('bonne', 'moyenne', 'mauvaise');
CREATE TABLE patient (
    id integer PRIMARY KEY,
    nom text NOT NULL,
    prenom text NOT NULL,
    naissance date,
    poids numeric(6, 2),
    actif boolean NOT NULL DEFAULT true,
    ouvert timestamptz NOT NULL,
    humeur humeur,
    notes text,
    photo bytea,
    tags text[],
    extra jsonb
);
INSERT INTO patient
SELECT n, 'Nom' || n, 'Prénom ' || n, date '1930-01-01' + n * 53, 40 + n * 0.17, n % 7 <> 0,
       timestamptz '2024-11-19 08:00+00' + n * interval '1 minute',
       (ARRAY['bonne', 'moyenne', 'mauvaise']::humeur[])[1 + n % 3],
       CASE WHEN n % 5 = 0 THEN NULL ELSE repeat('note ', n % 11) END,
       decode(lpad(to_hex(n * 7919), 8, '0'), 'hex'), ARRAY['t' || n % 4, NULL, 'é'], jsonb_build_object('n', n, 'pair', n % 2 = 0)
FROM generate_series(1, 300) AS n;
CREATE TABLE sejour (
    id serial PRIMARY KEY,
    patient_id integer NOT NULL REFERENCES patient,
    unite text NOT NULL,
    debut timestamp NOT NULL
);
INSERT INTO sejour (patient_id, unite, debut)
SELECT 1 + n % 300, 'unité ' || n % 6, timestamp '2024-01-01' + n * interval '3 hours' FROM generate_series(1, 600) AS n;
CREATE TABLE journal (id serial PRIMARY KEY, qui text NOT NULL, quoi text UNIQUE, taille bigint);
CREATE FUNCTION bavard(n integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'vu %', n;
    RAISE WARNING 'encore %', n USING DETAIL = 'un détail', HINT = 'une aide', ERRCODE = '01F77';
    RETURN n + 1;
END $$;
CREATE FUNCTION curseur(most integer) RETURNS refcursor LANGUAGE plpgsql AS $$
DECLARE c refcursor := 'le_curseur';
BEGIN
    OPEN c FOR SELECT id, nom FROM patient WHERE id <= most ORDER BY id;
    RETURN c;
END $$;
CREATE PROCEDURE note(IN texte text, INOUT longueur integer) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO journal (qui, quoi) VALUES ('procédure', texte);
    COMMIT;
    longueur := length(texte);
END $$;
RESET ROLE;
