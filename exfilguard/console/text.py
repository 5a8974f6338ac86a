"""Every sentence of the pages, in English and in French. A test holds the two to the same keys and the same fields."""

from __future__ import annotations

from typing import Literal, get_args

Language = Literal["en", "fr"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_TEXTS: dict[str, tuple[str, str]] = {
    "thousands_separator": (",", "\u202f"),
    "title": ("ExfilGuard console", "Console ExfilGuard"),
    "skip": ("Skip to content", "Aller au contenu"),
    "menu": ("Main menu", "Menu principal"),
    "now": ("Now", "En ce moment"),
    "incidents": ("Incidents", "Incidents"),
    "audit": ("Decisions", "Décisions"),
    "log_out": ("Log out", "Se déconnecter"),
    "log_in": ("Log in", "Se connecter"),
    "with_oidc": ("Log in with the establishment's account", "Se connecter avec le compte de l'établissement"),
    "name": ("User name", "Identifiant"),
    "password": ("Password", "Mot de passe"),
    "wrong_login": ("User name or password is wrong.", "Identifiant ou mot de passe incorrect."),
    "too_many": (
        "Too many failed attempts. Wait five minutes.",
        "Trop de tentatives. Attendez cinq minutes.",
    ),
    "no_users": (
        "Nobody can log in yet. On this console's machine, the first user is made by:",
        "Personne ne peut encore se connecter. Sur la machine de cette console, le premier utilisateur se crée par :",
    ),
    "no_role": (
        "Your account has no role in this console. Ask the administrator.",
        "Votre compte n'a aucun rôle dans cette console. Demandez à l'administrateur.",
    ),
    "oidc_failed": (
        "The establishment's login did not work. Try again, or ask the administrator.",
        "La connexion de l'établissement a échoué. Réessayez ou demandez à l'administrateur.",
    ),
    "logged_in_as": ("{user} ({role})", "{user} ({role})"),
    "viewer": ("viewer", "lecture"),
    "operator": ("operator", "opérateur"),
    "dpo": ("data protection officer", "délégué à la protection des données"),
    "admin": ("administrator", "administrateur"),
    "quiet": ("All quiet", "Tout est calme"),
    "quiet_more": (
        "No account is stopped. {queries} statements counted, {sessions} sessions open.",
        "Aucun compte n'est arrêté. {queries} requêtes comptées, {sessions} sessions ouvertes.",
    ),
    "attack_one": ("{count} account stopped", "{count} compte arrêté"),
    "attack": ("{count} accounts stopped", "{count} comptes arrêtés"),
    "watch_one": ("{count} account to look at", "{count} compte à examiner"),
    "watch": ("{count} accounts to look at", "{count} comptes à examiner"),
    "impaired": ("The guard is impaired", "La protection est dégradée"),
    "not_reading": (
        "Kafka does not answer: what is shown here is old.",
        "Kafka ne répond pas : ce qui est affiché ici n'est plus à jour.",
    ),
    "no_detector": (
        "No detector speaks: nothing is judged, budgets and standing verdicts hold.",
        "Aucun détecteur ne répond : rien n'est jugé, les budgets et les verdicts en vigueur tiennent.",
    ),
    "process_down": ("{name} does not answer.", "{name} ne répond pas."),
    "events_wait": (
        "Events have been waiting for Kafka for {seconds} s; queries are not affected.",
        "Des événements attendent Kafka depuis {seconds} s ; les requêtes ne sont pas affectées.",
    ),
    "events_lost": (
        "{count} events were not recorded: totals are too low.",
        "{count} événements n'ont pas été enregistrés : les totaux sont trop bas.",
    ),
    "frames_missing": (
        "{count} frames are missing on the topic: totals are too low.",
        "{count} trames manquent dans le topic : les totaux sont trop bas.",
    ),
    "open_incidents": ("What stands", "Mesures en vigueur"),
    "none_open": ("No verdict is in force.", "Aucun verdict n'est en vigueur."),
    "nearest": ("Nearest to a limit", "Les plus proches d'une limite"),
    "none_near": ("No account has been counted yet.", "Aucun compte n'a encore été compté."),
    "account": ("Account", "Compte"),
    "step": ("Step", "Mesure"),
    "why": ("Why", "Motif"),
    "no_reason": ("no reason was given", "aucun motif indiqué"),
    "since": ("Since", "Depuis"),
    "until": ("Until", "Jusqu'à"),
    "until_lifted": ("until lifted", "jusqu'à levée"),
    "state": ("State", "État"),
    "count": ("Count", "Nombre"),
    "limit": ("Limit", "Limite"),
    "window": ("Window", "Fenêtre"),
    "share": ("Of the limit", "Part de la limite"),
    "rows": ("rows", "lignes"),
    "patients": ("patients", "patients"),
    "bytes": ("bytes", "octets"),
    "queries": ("statements", "requêtes"),
    "level_none": ("free", "libre"),
    "level_alert": ("alert", "alerte"),
    "level_throttle": ("slowed", "ralenti"),
    "level_cut": ("cut", "coupé"),
    "level_lock": ("locked", "verrouillé"),
    "closed": ("closed", "terminé"),
    "standing": ("in force", "en vigueur"),
    "superseded": ("replaced", "remplacé"),
    "search": ("Account", "Compte"),
    "do_search": ("Search", "Chercher"),
    "only_standing": ("only what stands", "seulement les mesures en vigueur"),
    "some_of": (
        "{shown} of {total} are shown, the worst first.",
        "{shown} sur {total} sont affichées, les plus graves d'abord.",
    ),
    "show_all": ("All of them", "Toutes"),
    "page_of": ("Page {page} of {pages}, {total} incidents", "Page {page} sur {pages}, {total} incidents"),
    "decisions_of": ("Page {page} of {pages}, {total} decisions", "Page {page} sur {pages}, {total} décisions"),
    "newer": ("Newer", "Plus récents"),
    "older": ("Older", "Plus anciens"),
    "incident_of": ("Incident of {account}", "Incident du compte {account}"),
    "what_happened": ("What happened", "Ce qui s'est passé"),
    "what_was_done": ("What was done", "Ce qui a été fait"),
    "timeline": ("Timeline", "Chronologie"),
    "time": ("Time", "Heure"),
    "who": ("Who", "Qui"),
    "what": ("What", "Quoi"),
    "result": ("Result", "Résultat"),
    "detail": ("Detail", "Détail"),
    "acknowledged_by": ("Acknowledged by {who} at {time}: {why}", "Pris en compte par {who} à {time} : {why}"),
    "not_acknowledged": ("Nobody has acknowledged it yet.", "Personne ne l'a encore pris en compte."),
    "decide": ("Decide", "Décider"),
    "reason": ("Reason (it is recorded)", "Motif (il est enregistré)"),
    "for_how_long": ("For how long", "Durée"),
    "hours_1": ("1 hour", "1 heure"),
    "hours_4": ("4 hours", "4 heures"),
    "hours_12": ("12 hours", "12 heures"),
    "hours_24": ("24 hours", "24 heures"),
    "hours_168": ("7 days", "7 jours"),
    "do_ack": ("Acknowledge", "Prendre en compte"),
    "do_unlock": ("Unlock: it was legitimate", "Déverrouiller : c'était légitime"),
    "do_allow": ("Allow for this time", "Autoriser pendant cette durée"),
    "do_extend": ("Extend the step for this time", "Prolonger la mesure de cette durée"),
    "do_lock": ("Lock the account", "Verrouiller le compte"),
    "do_break_glass": ("Emergency: free the account at once", "Urgence : libérer le compte immédiatement"),
    "explain_decide": (
        "Acknowledge: you look after it, and a lock then stands until it is lifted. Unlock restores what was before. Emergency: free at once, for a while.",
        "Prendre en compte : vous vous en occupez, et un verrouillage dure alors jusqu'à sa levée. Déverrouiller rétablit l'état d'avant. Urgence : libéré tout de suite, pour un temps.",
    ),
    "reason_missing": ("Give a reason of at least 5 characters.", "Donnez un motif d'au moins 5 caractères."),
    "done": ("Done: {what}", "Fait : {what}"),
    "failed": ("It did not work: {why}", "Échec : {why}"),
    "dossier": ("Download the dossier", "Télécharger le dossier"),
    "account_story": ("Account {account}", "Compte {account}"),
    "windows_of": ("Its windows and limits", "Ses fenêtres et ses limites"),
    "not_counted": (
        "Not among the largest accounts at the moment.",
        "Pas parmi les comptes les plus importants en ce moment.",
    ),
    "its_incidents": ("Its incidents", "Ses incidents"),
    "no_incidents": ("None.", "Aucun."),
    "audit_explain": (
        "What people decided, newest first, from the actions topic.",
        "Ce que les personnes ont décidé, du plus récent au plus ancien, selon le topic des actions.",
    ),
    "from_host": ("From", "Depuis"),
    "not_found": ("There is no such page.", "Cette page n'existe pas."),
    "forbidden": ("Your role does not allow this.", "Votre rôle ne le permet pas."),
    "csrf": (
        "The page was too old. Load it again and repeat what you did.",
        "La page était trop ancienne. Rechargez-la et recommencez.",
    ),
    "broken": (
        "Something went wrong here. It is in the console's log; try again.",
        "Une erreur s'est produite. Elle est dans le journal de la console ; réessayez.",
    ),
    "back": ("Back to the start", "Retour à l'accueil"),
    "language": ("Français", "English"),
    "theme": ("Dark or light", "Sombre ou clair"),
    "op_lock": ("lock", "verrouillage"),
    "op_unlock": ("unlock", "déverrouillage"),
    "op_extend": ("extension", "prolongation"),
    "op_ack": ("acknowledgement", "prise en compte"),
    "op_break_glass": ("emergency access", "accès d'urgence"),
    "out_started": ("begun", "commencé"),
    "out_done": ("done", "fait"),
    "out_already": ("was so already", "déjà le cas"),
    "out_refused": ("refused", "refusé"),
    "out_failed": ("failed", "échoué"),
    "out_dry_run": ("only tried", "simulation"),
    "out_held": ("waits for a person", "attend une personne"),
    "out_requested": ("waits for a second person", "attend une deuxième personne"),
    "verified": ("verified", "vérifié"),
}

TEXTS: dict[Language, dict[str, str]] = {
    "en": {key: both[0] for key, both in _TEXTS.items()},
    "fr": {key: both[1] for key, both in _TEXTS.items()},
}


def choose(wanted: str, accept_language: str) -> Language:
    """The cookie's or the query's language; else the browser's first that is known; else English."""
    if wanted in LANGUAGES:
        return wanted
    for part in accept_language.split(",")[:20]:
        tag = part.split(";")[0].strip().lower()[:2]
        if tag in LANGUAGES:
            return tag
    return "en"
