"""MySQL's and MariaDB's side of the relay. The server speaks first, so the database is reached as soon as a client comes:

    client                 relay                         database
      │                     │ ─── connect ───────────────► │
      │ ◄─ HandshakeV10, capabilities changed ──────────── │   TLS is the guard's
      │ [SSLRequest, TLS] ► │                              │
      │ HandshakeResponse ► │ verdict? ── refused          │
      │                     │ [SSLRequest, TLS] ─────────► │
      │                     │ HandshakeResponse ─────────► │
      │ ◄──► AuthSwitchRequest, AuthMoreData .. ◄────────► │   numbered anew where TLS is on one side only
      │ ◄───────────────── OK ──────────────────────────── │   from here on the relay and the observer

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_lifecycle.html
"""
