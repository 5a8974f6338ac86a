"""The client/server protocol of MySQL 5.7 to 9 and MariaDB 10.6 to 11, without I/O: bytes in, events out.

https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html
https://mariadb.com/kb/en/clientserver-protocol/

    client                                    server
      │ ◄──────────────── HandshakeV10 (greeting) │
      │ [SSLRequest, TLS]                         │
      │ HandshakeResponse41 ────────────────────► │
      │ ◄── [AuthSwitchRequest, AuthMoreData ..]  │
      │ ◄───────────────────────── OK_Packet, ERR │
      │ command ────────────────────────────────► │   COM_QUERY, COM_STMT_EXECUTE ..
      │ ◄── OK | ERR | result set | LOCAL INFILE  │

Every packet is `int3 length, int1 sequence, payload`; a payload of 0xFFFFFF bytes goes on in the next packet. What a packet is
shows only from what was asked, so the readers here cut packets, and the observer knows which one it awaits.

- `startup`: the greeting, the login, passwords
- `frontend`, `backend`: the readers of both directions
- `messages`: commands, OK, ERR, column definitions
- `parameters`: the values of bind parameters
- `compression`: the envelope of compressed sessions
- `_scan`: the loops over rows, compiled where that is possible
"""
