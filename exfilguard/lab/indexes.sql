CREATE INDEX patient_nom ON patient (nom_naissance text_pattern_ops, prenoms);
CREATE INDEX sejour_patient ON sejour (patient_id);
CREATE INDEX sejour_uf ON sejour (uf, entree DESC);
CREATE INDEX compte_rendu_patient ON compte_rendu (patient_id);
ANALYZE;
