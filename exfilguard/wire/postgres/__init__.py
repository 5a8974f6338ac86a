"""PostgreSQL frontend/backend protocol, version 3, as seen by somebody standing between the two ends. No I/O.

Source: https://www.postgresql.org/docs/current/protocol.html (message flow and message formats).

    client ── Query ─────────────────────────────► server         simple query
           ◄─ RowDescription DataRow* CommandComplete ReadyForQuery ─

    client ── Parse Bind Describe Execute Sync ──► server         extended query
           ◄─ ParseComplete BindComplete RowDescription DataRow* CommandComplete ReadyForQuery ─

- `startup`: the packets before the first typed message, and the few messages the guard itself writes.
- `messages`: type bytes and the bodies that are looked into.
- `backend`, `frontend`: streams cut into messages; bodies that nobody needs are skipped, not kept.
- `_scan`: the two loops over DataRow, compiled where a C compiler was at hand.

Rule: bytes in any portions give the same messages; bytes that are not the protocol raise ProtocolError, nothing else.
"""
