-- A small French hospital record (DPI): identity, stays, reports, users. Table and column names as such systems have them.
CREATE TABLE patient (
    id               bigint PRIMARY KEY,
    ipp              text NOT NULL,          -- identifiant permanent du patient
    nir              text NOT NULL,          -- social security number; begins with 9, which no real one does
    nom_naissance    text NOT NULL,
    nom_usage        text,
    prenoms          text NOT NULL,
    sexe             char(1) NOT NULL,
    date_naissance   date NOT NULL,
    adresse          text NOT NULL,
    code_postal      char(5) NOT NULL,
    ville            text NOT NULL,
    telephone        text NOT NULL,
    medecin_traitant text NOT NULL
);
CREATE TABLE sejour (
    id         bigint PRIMARY KEY,
    patient_id bigint NOT NULL,
    iep        text NOT NULL,                -- identifiant externe du passage
    uf         text NOT NULL,                -- unité fonctionnelle
    entree     timestamp NOT NULL,
    sortie     timestamp,
    motif      text NOT NULL,
    praticien  text NOT NULL
);
CREATE TABLE compte_rendu (
    id         bigint PRIMARY KEY,
    patient_id bigint NOT NULL,
    sejour_id  bigint NOT NULL,
    redige     timestamp NOT NULL,
    titre      text NOT NULL,
    texte      text NOT NULL
);
CREATE TABLE utilisateur (
    id    bigint PRIMARY KEY,
    login text NOT NULL,
    nom   text NOT NULL,
    role  text NOT NULL
);
