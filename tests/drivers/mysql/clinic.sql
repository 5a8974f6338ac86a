CREATE TABLE patient (id INT PRIMARY KEY, nom VARCHAR(60), naissance DATE, photo BLOB, solde DECIMAL(9,2), actif BIT(1),
  vu DATETIME(6), duree TIME(3), annee YEAR, poids DOUBLE, taille FLOAT, petit TINYINT, moyen MEDIUMINT UNSIGNED,
  grand BIGINT UNSIGNED, texte LONGTEXT, genre ENUM('f','m','x'), options SET('a','b'), doc JSON);
INSERT INTO patient SELECT seq, IF(seq MOD 5, CONCAT('Néüß', seq), NULL), DATE_ADD('1940-02-28', INTERVAL seq MONTH),
  UNHEX(MD5(seq)), seq / 8, seq MOD 2, TIMESTAMP('2026-01-02 03:04:05.678901') + INTERVAL seq SECOND, SEC_TO_TIME(-seq * 61),
  1970 + seq MOD 100, seq / 3, seq / 7, CAST(seq MOD 100 AS SIGNED) - 50, seq * 37, 18446744073709551615 - seq, REPEAT('é', seq),
  ELT(1 + seq MOD 3, 'f', 'm', 'x'), IF(seq MOD 2, 'a,b', ''), JSON_OBJECT('n', seq) FROM seq_1_to_300;
CREATE TABLE sejour (id INT PRIMARY KEY, patient_id INT NOT NULL, unite VARCHAR(20), KEY (patient_id));
INSERT INTO sejour SELECT seq, 1 + (seq * 7) MOD 300, CONCAT('U', seq MOD 9) FROM seq_1_to_600;
CREATE TABLE journal (id INT PRIMARY KEY AUTO_INCREMENT, qui VARCHAR(40), quoi VARCHAR(200) UNIQUE);
CREATE VIEW v_patient AS SELECT id AS dossier, nom FROM patient;
CREATE PROCEDURE deux(IN n INT, OUT total INT) BEGIN SELECT id, nom FROM patient WHERE id <= n ORDER BY id;
  SELECT COUNT(*) AS c FROM sejour WHERE id <= n; SET total = n * 2; END
