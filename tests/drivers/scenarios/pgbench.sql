\set n random(1, 300)
SELECT id, nom, prenom FROM patient WHERE id = :n;
SELECT count(*) FROM sejour WHERE patient_id = :n;
INSERT INTO journal (qui, taille) VALUES ('pgbench', 1);
