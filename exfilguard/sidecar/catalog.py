"""Where the configured patient columns are, as PostgreSQL's RowDescription names columns: (table OID, column number).

Asked of the catalog every half minute, since a table that is rebuilt has another OID. Three kinds of columns:

- `origins`: a configured column, its partitions' and inheritance children's included;
- `others`: a column of an ordinary table that only has the same name (`id` of another table): no patient;
- any other (a view's, a temporary table's, one made since): matched by its name, rather too often than too seldom.

COPY describes no columns: for it the live columns of these tables are asked too, and of whatever else has their names (a COPY may
leave the schema to the search path).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import psycopg

from ..config.schema import ListenerConfig

log = logging.getLogger(__name__)

Column = tuple[int, int]

_CONFIGURED = """
WITH RECURSIVE tree(oid) AS (
  SELECT c.oid
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
   WHERE lower(c.relname) = %(table)s AND (%(schema)s = '' OR lower(n.nspname) = %(schema)s)
     AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  UNION
  SELECT i.inhrelid FROM pg_inherits AS i JOIN tree ON i.inhparent = tree.oid
)
SELECT a.attrelid::bigint, a.attnum::int
  FROM tree JOIN pg_attribute AS a ON a.attrelid = tree.oid
 WHERE lower(a.attname) = %(column)s AND a.attnum > 0
"""

_SAME_NAME = """
SELECT a.attrelid::bigint, a.attnum::int
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
 WHERE lower(a.attname) = ANY(%(columns)s) AND a.attnum > 0
   AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
"""

_UNIQUE = """
SELECT i.indrelid::bigint, i.indkey[0]::int
  FROM pg_index AS i
 WHERE i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indrelid::bigint = ANY(%(tables)s)
"""


_COPIED = """
WITH named AS (
  SELECT c.oid, n.nspname, c.relname
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
   WHERE c.relname IN (SELECT relname FROM pg_class WHERE oid::bigint = ANY(%(tables)s))
     AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema'
), live AS (
  SELECT named.*, a.attnum, a.attname, a.atttypid, a.attgenerated,
         row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) - 1 AS shown_at,
         count(*) FILTER (WHERE a.attgenerated = '') OVER (PARTITION BY a.attrelid ORDER BY a.attnum) - 1 AS copied_at,
         count(*) OVER (PARTITION BY a.attrelid) AS shown,
         count(*) FILTER (WHERE a.attgenerated = '') OVER (PARTITION BY a.attrelid) AS copied
    FROM named JOIN pg_attribute AS a ON a.attrelid = named.oid
   WHERE a.attnum > 0 AND NOT a.attisdropped
)
SELECT oid::bigint, nspname, relname, copied::int, shown::int, attnum::int, attname,
       (WITH RECURSIVE base(type, of) AS (
          SELECT t.oid, t.typbasetype FROM pg_type AS t WHERE t.oid = atttypid
          UNION ALL
          SELECT t.oid, t.typbasetype FROM pg_type AS t JOIN base ON t.oid = base.of
        ) SELECT type::bigint FROM base WHERE of = 0),
       CASE WHEN attgenerated = '' THEN copied_at::int ELSE -1 END, shown_at::int
  FROM live
"""


@dataclass(frozen=True, slots=True)
class Resolved:
    """See the module. Sorted, so that equal answers are equal."""

    origins: list[Column]
    others: list[Column]
    identity_tables: list[int]
    """Tables whose configured column is unique: each patient has one row there, with or without its identifier."""
    tables: list[list[Any]]
    """As COPY sends them, see observe/copy_tables.py: [schema, name, copied, shown, [[column, type OID, copied at, shown at], ..]]."""


def resolve_columns(listener: ListenerConfig) -> Resolved:
    """Raises psycopg.Error."""
    origins: set[Column] = set()
    names = set()
    with psycopg.connect(listener.catalog_dsn, connect_timeout=5, application_name="exfilguard-catalog") as connection:
        for configured in listener.patient_columns:
            *schema, table, column = configured.lower().split(".")
            names.add(column)
            wanted = {"schema": schema[0] if schema else "", "table": table, "column": column}
            found = connection.execute(_CONFIGURED, wanted).fetchall()
            if not found:
                log.warning("listener %s: %s is not in the catalog: check patient_columns", listener.name, configured)
            origins.update(found)
        unique = connection.execute(_UNIQUE, {"tables": [table for table, _ in origins]}).fetchall()
        same_name = set(connection.execute(_SAME_NAME, {"columns": sorted(names)}).fetchall())
        live = connection.execute(_COPIED, {"tables": [table for table, _ in origins]}).fetchall()
    identity_tables = sorted({table for table, column in unique if (table, column) in origins})
    tables: dict[tuple[str, str], list[Any]] = {}
    for oid, schema, table, copied, shown, attnum, name, type_oid, copied_at, shown_at in live:
        known = tables.setdefault((schema, table), [schema, table, copied, shown, []])
        if (oid, attnum) in origins:
            known[4].append([name, type_oid, copied_at, shown_at])
    for known in tables.values():
        known[4].sort()
    in_order = [tables[key] for key in sorted(tables)]
    return Resolved(sorted(origins), sorted(same_name - origins), identity_tables, in_order)
