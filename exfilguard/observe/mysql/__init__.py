"""MySQL's and MariaDB's side of observing: the session, the patient columns by origin, the statement's shape."""
