"""PostgreSQL's side of the relay: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP

client                relay                    database
  │ SSLRequest  ────►  │                          │
  │ ◄──── S or N       │   (TLS ends here)        │
  │ StartupMessage ──► │  verdict? ── refused     │
  │                    │  (SSLRequest ──► S)      │
  │                    │  StartupMessage ───────► │
  │ ◄─ AuthenticationSASL without -PLUS ───────── │
"""
