"""Where the configured patient columns are, as PostgreSQL's RowDescription names columns: (table OID, column number).

Asked of the catalog every half minute, since a table that is rebuilt has another OID. Three kinds of columns:

- `origins`: a configured column, its partitions' and inheritance children's included;
- `others`: a column of an ordinary table that only has the same name (`id` of another table): no patient;
- any other (a view's, a temporary table's, one made since): matched by its name, rather too often than too seldom.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Resolved:
    """See the module. Sorted, so that equal answers are equal."""

    origins: list[Column]
    others: list[Column]
    identity_tables: list[int]
    """Tables whose configured column is unique: each patient has one row there, with or without its identifier."""


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
    identity_tables = sorted({table for table, column in unique if (table, column) in origins})
    return Resolved(sorted(origins), sorted(same_name - origins), identity_tables)
