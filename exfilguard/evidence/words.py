"""The reports' words, French and English, each once; times, numbers and durations as each language writes them."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from ..events.verdict import Verdict
from .moment import LAST_S

LANGUAGES = ("fr", "en")

_WORDS: dict[str, tuple[str, str]] = {
    # shared
    "account": ("Compte", "Account"),
    "establishment": ("Établissement", "Establishment"),
    "period": ("Période examinée", "Period examined"),
    "made": ("Établi le {time} par ExfilGuard {version}", "Made on {time} by ExfilGuard {version}"),
    "to_complete": ("À compléter", "To be completed"),
    "none": ("aucun", "none"),
    "yes": ("oui", "yes"),
    "no": ("non", "no"),
    "until_lifted": ("jusqu'à levée", "until lifted"),
    "time": ("Heure", "Time"),
    "what": ("Fait", "What happened"),
    "detail": ("Détail", "Detail"),
    "source": ("Adresse", "Source"),
    "application": ("Application", "Application"),
    "sessions": ("Sessions", "Sessions"),
    "statements": ("Requêtes", "Statements"),
    "rows": ("Lignes", "Rows"),
    "hidden_rows": ("Lignes déplacées", "Rows moved"),
    "patients": ("Patients", "Patients"),
    "estimated": ("Estimés", "Estimated"),
    "columns": ("Colonnes", "Columns"),
    "statement": ("Requête (sans ses valeurs)", "Statement (without its values)"),
    "first": ("Premier accès", "First access"),
    "last": ("Dernier accès", "Last access"),
    "damaged_title": ("Fichiers d'archive endommagés", "Damaged archive files"),
    "damaged": (
        "{n} fichier(s) de l'archive sont endommagés et n'ont pas été lus : ce rapport est donc incomplet pour leur contenu.",
        "{n} file(s) of the archive are damaged and were not read: this report is incomplete for what they held.",
    ),
    "file": ("Fichier", "File"),
    "unknown_text": ("(texte inconnu)", "(text unknown)"),
    "and_more": ("… et {n} autres, voir le fichier JSON", "… and {n} more, see the JSON file"),
    "columns_unknown": ("non rapportées par le serveur", "not reported by the server"),
    # kinds
    "identified": ("Patients identifiés dans les résultats", "Patients identified in the results"),
    "estimated_long": ("Patients estimés (sans identifiant visible)", "Patients estimated (no visible identifier)"),
    "asked_long": ("Patients seulement demandés", "Patients only asked for"),
    "how_counted_title": ("Comment ces chiffres sont établis", "How these figures are made"),
    "how_counted_identified": (
        "Identifiés : la valeur d'une colonne identifiant le patient figurait dans les lignes transmises ; chaque patient est "
        "compté une fois, par une empreinte calculée avec la clé de l'établissement.",
        "Identified: the value of a column that identifies the patient was in the rows delivered; each patient counts once, by a "
        "digest made with the establishment's key.",
    ),
    "how_counted_estimated": (
        "Estimés : des lignes de patients ont été transmises sans identifiant visible (colonnes omises, copie, agrégat) ; "
        "l'estimation compte plutôt trop que trop peu et n'est jamais additionnée aux patients identifiés.",
        "Estimated: rows about patients were delivered without a visible identifier (columns left out, a copy, an aggregate); "
        "the estimate is rather too high than too low and is never added to the identified.",
    ),
    "how_counted_asked": (
        "Demandés : la requête désignait ces patients, sans que leur identifiant revienne dans le résultat.",
        "Asked for: the statement named these patients, and their identifier did not come back in the result.",
    ),
    # incident
    "incident_title": ("Rapport d'incident", "Incident report"),
    "incident_headline": (
        "Le compte {account} a reçu les données de {patients} patients identifiés{estimated} entre le {first} et le {last}.",
        "Account {account} received the data of {patients} identified patients{estimated} between {first} and {last}.",
    ),
    "incident_nothing": (
        "Aucune donnée n'a été lue par le compte {account} pendant la période examinée.",
        "Account {account} read nothing in the period examined.",
    ),
    "estimated_part": (" (et {n} estimés)", " (and {n} estimated)"),
    "state_now": ("État actuel", "State now"),
    "state_locked": ("suspendu", "suspended"),
    "state_cut": ("sessions coupées", "sessions cut"),
    "state_free": ("non restreint", "not restricted"),
    "state_alert": ("signalé", "alerted about"),
    "state_throttle": ("ralenti", "slowed down"),
    "summary": ("Résumé", "Summary"),
    "first_limit": ("Limite franchie", "Limit crossed"),
    "decision": ("Décision", "Decision"),
    "cut_after": ("Coupure effective après", "Cut took effect after"),
    "suspended_after": ("Suspension vérifiée après", "Suspension verified after"),
    "timeline": ("Chronologie", "Timeline"),
    "t_login": ("Connexion", "Login"),
    "t_login_failed": ("Connexion refusée", "Login refused"),
    "t_logout": ("Déconnexion", "Logout"),
    "t_first_read": ("Première lecture", "First read"),
    "t_last_read": ("Dernière lecture", "Last read"),
    "t_crossed": ("Limite franchie", "Limit crossed"),
    "t_verdict": ("Décision : {level}", "Decision: {level}"),
    "t_lifted": ("Décision levée", "Decision lifted"),
    "t_action": ("{operation} par {hook} : {outcome}", "{operation} by {hook}: {outcome}"),
    "t_refused": ("Session refusée ou coupée", "Session refused or cut"),
    "t_finding": ("Constat", "Finding"),
    "t_desynced": ("Protocole non suivi", "Protocol not followed"),
    "sources_title": ("D'où", "From where"),
    "shapes_title": ("Ce qui a été demandé à la base", "What the database was asked"),
    "decisions_title": ("Décisions et fenêtres", "Decisions and windows"),
    "level": ("Niveau", "Level"),
    "reason": ("Motif", "Reason"),
    "by": ("Par", "By"),
    "window": ("Fenêtre", "Window"),
    "total": ("Total", "Total"),
    "limit": ("Limite", "Limit"),
    "expires": ("Expire", "Expires"),
    "actions_title": ("Mesures sur le compte", "What was done to the account"),
    "hook": ("Moyen", "Means"),
    "operation": ("Mesure", "Measure"),
    "outcome": ("Résultat", "Outcome"),
    "verified": ("Vérifié", "Verified"),
    "undo_title": ("Ce qui a été rétabli, et comment rétablir", "What was undone, and how to undo"),
    "undo_done": ("Rétabli le {time} par {by} : {detail}", "Undone on {time} by {by}: {detail}"),
    "undo_open": (
        'La mesure est toujours en vigueur. Pour la lever : exfilguard unlock {account} --reason "…"',
        'The measure still stands. To lift it: exfilguard unlock {account} --reason "…"',
    ),
    "undo_nothing": ("Aucune mesure n'est en vigueur.", "No measure stands."),
    "next_title": ("À faire maintenant", "To do now"),
    "next_1": (
        "Appeler la personne ou le responsable de l'application : l'accès était-il légitime ?",
        "Call the person or the owner of the application: was the access legitimate?",
    ),
    "next_2": (
        "Si non : changer le mot de passe, confirmer la suspension (exfilguard lock), conserver les journaux de la base.",
        "If not: change the password, confirm the suspension (exfilguard lock), keep the database's logs.",
    ),
    "next_3": (
        "Établir la liste des patients et le projet de notification : exfilguard report exposure {account}. Le délai de 72 heures "
        "de l'article 33 du RGPD court depuis la prise de connaissance.",
        "Make the list of patients and the draft notification: exfilguard report exposure {account}. The 72 hours of GDPR "
        "article 33 run since you became aware.",
    ),
    # exposure
    "exposure_title": ("Patients et données exposés", "Patients and data exposed"),
    "exposure_headline": (
        "{patients} patients identifiés ont été exposés par le compte {account}{estimated}.",
        "{patients} identified patients were exposed through account {account}{estimated}.",
    ),
    "resolution_title": ("Identification des personnes", "Resolution to people"),
    "resolution_none": (
        "Les patients sont désignés par leur empreinte. Avec la clé et la liste des identifiants, relancer la commande avec "
        "--identifiers ou --dsn-file et --column : la liste nominative est écrite dans le fichier CSV.",
        "Patients are named by their digest. With the key and a list of identifiers, run the command again with --identifiers, or "
        "--dsn-file and --column: the list by name goes to the CSV file.",
    ),
    "resolution_done": (
        "{found} patients sur {of} ont été reconnus parmi {candidates} identifiants de l'établissement.",
        "{found} of {of} patients were recognised among {candidates} identifiers of the establishment.",
    ),
    "resolution_packed": (
        "{n} autres, transmis regroupés dans une même valeur, ont été reconnus grâce à la clé.",
        "{n} more, delivered packed in one value, were recognised with the key.",
    ),
    "resolution_unknown": (
        "{n} empreintes ne correspondent à aucun de ces identifiants : patients supprimés depuis, ou d'une autre colonne.",
        "{n} digests fit none of these identifiers: patients deleted since, or of another column.",
    ),
    "resolution_csv": ("La liste est dans {file}.", "The list is in {file}."),
    "columns_title": ("Quelles données", "Which data"),
    "list_title": ("Patients, par empreinte", "Patients, by digest"),
    "digest": ("Empreinte", "Digest"),
    "times": ("Fois", "Times"),
    # notification
    "notice_title": (
        "Projet de notification à la CNIL (article 33 du RGPD)",
        "Draft notification to the supervisory authority (GDPR article 33)",
    ),
    "notice_headline": (
        "Projet prérempli : les champs surlignés sont à compléter par le délégué à la protection des données avant le {deadline}.",
        "Prefilled draft: the highlighted fields are for the data protection officer to complete, before {deadline}.",
    ),
    "notice_deadline": ("Échéance des 72 heures", "End of the 72 hours"),
    "notice_kind": ("Type de notification", "Kind of notification"),
    "notice_kind_initial": (
        "initiale ; des compléments suivront (article 33, paragraphe 4 : informations communiquées de manière échelonnée)",
        "initial; more will follow (article 33(4): information provided in phases)",
    ),
    "notice_kind_complete": ("complète", "complete"),
    "notice_kind_more": ("complémentaire à la notification du", "supplementary to the notification of"),
    "n1": ("1. Responsable du traitement et contact", "1. Controller and contact"),
    "controller": ("Responsable du traitement", "Controller"),
    "postal": ("Adresse postale", "Postal address"),
    "dpo": ("Délégué à la protection des données ou point de contact", "Data protection officer or contact point"),
    "others_involved": ("Autres organismes concernés (éditeur, hébergeur HDS)", "Others involved (vendor, host)"),
    "n2": ("2. Chronologie de la violation", "2. When"),
    "began": ("Début de la violation", "The breach began"),
    "ended": ("Fin de la violation", "The breach ended"),
    "ongoing": ("Violation toujours en cours ?", "Is it still going on?"),
    "aware": ("Prise de connaissance", "Became aware"),
    "aware_how": ("Circonstances de la découverte", "How it was discovered"),
    "aware_by": (
        "alerte automatique d'ExfilGuard : {reason}",
        "automatic alert of ExfilGuard: {reason}",
    ),
    "late": ("Motifs du retard, si la notification dépasse 72 heures", "Reasons for the delay, if later than 72 hours"),
    "n3": ("3. Nature de la violation", "3. Nature of the breach"),
    "nature": ("Nature", "Nature"),
    "nature_text": (
        "perte de confidentialité : consultation et copie de données par le compte {account}. Intégrité et disponibilité : aucune "
        "atteinte connue d'ExfilGuard.",
        "loss of confidentiality: data were read and copied through account {account}. Integrity and availability: no effect that "
        "ExfilGuard knows of.",
    ),
    "origin": ("Origine", "Origin"),
    "origin_text": (
        "acte externe ou interne : à établir ; l'accès a utilisé un compte valide, depuis {sources}",
        "external or internal: to be established; a valid account was used, from {sources}",
    ),
    "n4": ("4. Données et personnes concernées", "4. Data and people concerned"),
    "people_category": ("Catégories de personnes", "Categories of people"),
    "people_patients": (
        "patients de l'établissement (dont, à vérifier, des mineurs)",
        "patients (possibly minors among them: check)",
    ),
    "people_number": ("Nombre approximatif de personnes", "Approximate number of people"),
    "people_number_text": (
        "{n} identifiées ; au plus {estimated} autres par estimation",
        "{n} identified; at most {estimated} more by estimate",
    ),
    "records_number": ("Nombre approximatif d'enregistrements", "Approximate number of records"),
    "records_text": ("{n} lignes", "{n} rows"),
    "data_categories": ("Catégories de données", "Categories of data"),
    "data_health": (
        "données de santé (article 9) et données d'identité ; colonnes transmises : {columns}",
        "data concerning health (article 9) and identity data; columns delivered: {columns}",
    ),
    "data_qualify": (
        "Qualifier ces colonnes : état civil, coordonnées, NIR, santé, autres",
        "Qualify these columns: identity, contact, national number, health, other",
    ),
    "n5": ("5. Conséquences probables", "5. Likely consequences"),
    "consequences": (
        "divulgation ou vente de données de santé ; usurpation d'identité et hameçonnage ciblé ; atteinte à la vie privée et à la "
        "relation de soin ; gravité à apprécier par le responsable du traitement",
        "disclosure or sale of health data; identity theft and targeted phishing; harm to privacy and to the relationship of care; "
        "the controller is to judge how severe",
    ),
    "n6": ("6. Mesures prises et envisagées", "6. Measures taken and proposed"),
    "measures_taken": ("Mesures prises", "Measures taken"),
    "measures_before": ("Mesures en place avant", "Measures in place before"),
    "measures_before_text": (
        "comptage en temps réel des dossiers consultés par compte, limites par classe de compte, coupure et suspension automatiques",
        "records read are counted in real time per account, limits per class of account, automatic cut and suspension",
    ),
    "measures_proposed": ("Mesures envisagées", "Measures proposed"),
    "measures_proposed_text": (
        "changement des mots de passe, revue des habilitations du compte, recherche de publication des données",
        "change of passwords, review of the account's privileges, search for the data being published",
    ),
    "n7": ("7. Information des personnes (article 34)", "7. Communication to the people (article 34)"),
    "inform": (
        "Le risque paraît élevé pour des données de santé : information individuelle requise sauf exception de l'article 34, "
        "paragraphe 3. Date et moyen",
        "The risk looks high for health data: individual communication is required unless article 34(3) applies. Date and means",
    ),
    "n8": ("8. Autres obligations", "8. Other duties"),
    "other_duties": (
        "Signalement sans délai au CERT Santé (article L. 1111-8-2 du code de la santé publique) ; dépôt de plainte ; assurance",
        "Report without delay to the health CERT (in France: CERT Santé, CSP L. 1111-8-2); complaint to the police; insurer",
    ),
    "cross_border": ("Personnes dans d'autres États membres", "People in other member states"),
    "annex": ("Annexe : mesures et décisions horodatées", "Annex: measures and decisions with their times"),
    # review
    "review_title": ("Revue mensuelle des accès", "Monthly access review"),
    "review_headline": (
        "{active} compte(s) actif(s), {dormant} dormant(s), {attention} point(s) à examiner.",
        "{active} active account(s), {dormant} dormant, {attention} point(s) to look at.",
    ),
    "active": ("Comptes actifs", "Active accounts"),
    "dormant": ("Comptes dormants", "Dormant accounts"),
    "points": ("Points à examiner", "Points to look at"),
    "accounts_title": ("Comptes et ce qu'ils ont lu", "Accounts and what they read"),
    "class": ("Classe", "Class"),
    "days": ("Jours", "Days"),
    "peak": ("Jour le plus chargé", "Busiest day"),
    "sources_n": ("Adresses", "Sources"),
    "night": ("Dont la nuit", "At night"),
    "verdicts_n": ("Décisions", "Decisions"),
    "dormant_title": ("Comptes dormants", "Dormant accounts"),
    "dormant_text": (
        "Sans activité depuis plus de {days} jours : à désactiver s'ils ne servent plus.",
        "No activity for more than {days} days: disable them if nobody needs them.",
    ),
    "last_seen": ("Dernière activité", "Last activity"),
    "unused_title": ("Habilitations inutilisées", "Unused privileges"),
    "unused_grants": (
        "Ces comptes peuvent lire ces tables de patients et ne l'ont pas fait pendant la période.",
        "These accounts may read these tables of patients and did not in the period.",
    ),
    "unused_ask": (
        "Les droits de la base n'ont pas été lus : donner --dsn-file pour les comparer à l'usage.",
        "The database's grants were not read: give --dsn-file to compare them with what was used.",
    ),
    "unused_class": (
        "Ces comptes n'ont jamais dépassé le dixième de la première limite de leur classe : une classe plus stricte leur suffit.",
        "These accounts never passed a tenth of the first limit of their class: a stricter class would do.",
    ),
    "table": ("Table", "Table"),
    "allowances_title": ("Dérogations", "Allowances"),
    "allowance_soon": ("expire dans {n} jours", "expires in {n} days"),
    "allowance_over": ("expirée", "expired"),
    "allowance_good": ("en vigueur", "in force"),
    "allowance_unused": ("aucun compte actif", "no active account"),
    "state": ("État", "State"),
    "findings_title": ("Décisions et constats du mois", "Decisions and findings of the month"),
    "failed": ("Connexions refusées", "Logins refused"),
    "sign_title": ("Validation", "Sign-off"),
    "sign": ("Revu par, date, suites données", "Reviewed by, date, what follows"),
    "unclassified": ("Comptes de la classe par défaut", "Accounts in the default class"),
    "unclassified_text": (
        "Ces comptes ne sont nommés par aucune règle de la politique et suivent la classe « {name} ».",
        'No rule of the policy names these accounts: they follow class "{name}".',
    ),
    "break_glass_used": ("Compte d'urgence utilisé", "Emergency account used"),
    # drill
    "drill_title": ("Exercice d'exfiltration", "Extraction drill"),
    "drill_pass": ("Réussi : chaque étape a tenu son objectif.", "Passed: each step met its objective."),
    "drill_fail": ("Échec : {n} étape(s) n'ont pas tenu leur objectif.", "Failed: {n} step(s) missed their objective."),
    "drill_aborted": ("Interrompu : {reason}", "Aborted: {reason}"),
    "drill_steps": ("Étapes", "Steps"),
    "step": ("Étape", "Step"),
    "objective": ("Objectif", "Objective"),
    "measured": ("Mesuré", "Measured"),
    "result": ("Résultat", "Result"),
    "passed": ("tenu", "met"),
    "failed_word": ("manqué", "missed"),
    "not_reached": ("non atteint", "not reached"),
    "drill_safety": ("Garanties de l'exercice", "What made it safe"),
    "drill_safety_data": (
        "Patients fictifs uniquement ({n}), dans un schéma à part ; le compte canari ne peut lire aucune autre table.",
        "Synthetic patients only ({n}), in a schema of their own; the canary account can read no other table.",
    ),
    "drill_safety_limits": (
        "Au plus {rows} lignes et {seconds} secondes ; tout imprévu interrompt l'exercice.",
        "At most {rows} rows and {seconds} seconds; anything unexpected aborts it.",
    ),
    "drill_alert": ("Alerte émise après la limite", "Alert issued after the limit"),
    "drill_cut": ("Extraction coupée après la décision", "Extraction cut after the decision"),
    "drill_locked": (
        "Compte suspendu dans la base après la limite",
        "Account suspended in the database after the limit",
    ),
    "drill_relogin_guard": ("Nouvelle connexion refusée par le garde", "Fresh login refused by the guard"),
    "drill_relogin_database": ("Nouvelle connexion refusée par la base", "Fresh login refused by the database"),
    "drill_care": ("Autres comptes non affectés", "Other accounts unaffected"),
    "drill_unlocked": ("Compte rétabli après l'ordre de levée", "Account given back after the order to lift"),
    "drill_report": ("Rapport d'exposition égal à ce qui a été reçu", "Exposure report equal to what was received"),
    "drill_delivered": ("Patients fictifs reçus avant la coupure", "Synthetic patients received before the cut"),
}

_MONTHS_FR = (
    "janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre",
)  # fmt: skip
_LEVELS = {
    "none": ("levée", "lifted"),
    "alert": ("alerte", "alert"),
    "throttle": ("ralentissement", "slow down"),
    "cut": ("coupure", "cut"),
    "lock": ("suspension", "lock"),
}
_UNITS = {
    "patients": ("patients", "patients"),
    "rows": ("lignes", "rows"),
    "bytes": ("octets", "bytes"),
    "queries": ("requêtes", "statements"),
}
_OPERATIONS = {
    "lock": ("Suspension", "Lock"),
    "unlock": ("Rétablissement", "Unlock"),
    "extend": ("Prolongation", "Extension"),
    "ack": ("Prise en compte", "Acknowledgement"),
    "break_glass": ("Accès d'urgence", "Break glass"),
}
_OUTCOMES = {
    "started": ("commencée", "started"),
    "done": ("faite", "done"),
    "already": ("déjà en place", "already so"),
    "refused": ("refusée", "refused"),
    "failed": ("échouée", "failed"),
    "dry_run": ("à blanc", "dry run"),
    "held": ("retenue", "held"),
    "requested": ("demandée", "requested"),
    "claimed": ("comptée", "counted"),
    "released": ("décomptée", "no longer counted"),
}


class Words:
    """One language and time zone."""

    def __init__(self, language: str, timezone: str = "Europe/Paris") -> None:
        self.language = language
        self._i = LANGUAGES.index(language)
        self._zone = ZoneInfo(timezone)

    def __call__(self, key: str, **values: object) -> str:
        text = _WORDS[key][self._i]
        return text.format(**values) if values else text

    def level(self, level: str) -> str:
        return _LEVELS.get(level, (level, level))[self._i]

    def operation(self, operation: str) -> str:
        return _OPERATIONS.get(operation, (operation, operation))[self._i]

    def outcome(self, outcome: str) -> str:
        return _OUTCOMES.get(outcome, (outcome, outcome))[self._i]

    def reason(self, verdict: Verdict) -> str:
        """Why a verdict was issued. Its own sentence is English; in French the numbers are said anew, where it has any."""
        brief = self.brief(verdict)
        return brief if brief == verdict.reason else f"{brief} (« {verdict.reason} »)"

    def brief(self, verdict: Verdict) -> str:
        """The same without the English sentence behind the French one: for tables."""
        if self.language == "en" or verdict.unit not in _UNITS or not verdict.limit or not verdict.window_ms:
            return verdict.reason
        unit = _UNITS[verdict.unit][self._i]
        total, limit = self.number(verdict.total), self.number(verdict.limit)
        return f"{total} {unit} en {self.duration(verdict.window_ms)}, limite {limit}"

    def number(self, value: int) -> str:
        text = f"{value:,}"
        return text.replace(",", "\u202f") if self.language == "fr" else text

    def _at(self, ms: int) -> dt.datetime:
        return dt.datetime.fromtimestamp(min(ms / 1000, LAST_S - 86_400), self._zone)  # a day: whatever the zone

    def time(self, ms: int, *, precise: bool = False) -> str:
        """Day and time in the report's zone; empty for 0."""
        if not ms:
            return "–"
        at = self._at(ms)
        clock = f"{at:%H:%M:%S}" + (f",{ms % 1000:03d}" if precise else "")
        if self.language == "en":
            return f"{at.day} {at:%B %Y}, {clock.replace(',', '.')}"
        return f"{at.day} {_MONTHS_FR[at.month - 1]} {at.year} à {clock}"

    def clock(self, ms: int) -> str:
        """`24/11 14:03:07.123`: for tables."""
        at = self._at(ms)
        return f"{at:%d/%m %H:%M:%S}.{ms % 1000:03d}"

    def day(self, ms: int) -> str:
        at = self._at(ms)
        return f"{at:%d/%m/%Y}" if self.language == "fr" else f"{at:%Y-%m-%d}"

    def zone(self) -> str:
        return str(self._zone)

    def duration(self, ms: int) -> str:
        """`85 ms`, `1,2 s`, `3 min`, `2 h`, `7 j`."""
        if ms < 1_000:
            return f"{ms} ms"
        if ms < 60_000:
            text = f"{ms / 1000:.3g} s"
            return text.replace(".", ",") if self.language == "fr" else text
        for size, unit in ((86_400_000, "j" if self.language == "fr" else "d"), (3_600_000, "h"), (60_000, "min")):
            if ms >= size:
                text = f"{ms / size:.3g} {unit}"
                return text.replace(".", ",") if self.language == "fr" else text
        return f"{ms} ms"
