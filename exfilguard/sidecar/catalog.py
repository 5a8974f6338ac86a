"""Where the configured patient columns are, as PostgreSQL's RowDescription names columns: (table OID, column number).

Asked of the catalog every half minute, since a table that is rebuilt has another OID. Three kinds of columns:

- `origins`: a configured column, its partitions' and inheritance children's included, and that of a view or materialized view which
  shows one, whatever its name there: its rule says where each of its columns comes from;
- `others`: a column of an ordinary table that only has the same name (`id` of another table): no patient;
- any other (a temporary table's, one made since): matched by its name, rather too often than too seldom.

COPY describes no columns: for it the live columns of these tables are asked too, and of whatever else has their names (a COPY may
leave the schema to the search path).
"""

from __future__ import annotations

import logging
import re
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


_VIEWS = """
WITH RECURSIVE reading(oid) AS (
  SELECT t::oid FROM unnest(%(tables)s::bigint[]) AS t
  UNION
  SELECT r.ev_class
    FROM reading JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reading.oid
    JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
)
SELECT r.oid::bigint, r.xmin::text, r.ev_class::bigint
  FROM reading JOIN pg_rewrite AS r ON r.ev_class = reading.oid
 WHERE r.ev_type = '1' AND r.rulename = '_RETURN'
"""
_RULE = "SELECT ev_action::text FROM pg_rewrite WHERE oid::bigint = %s"
MAX_RULES = 10_000

_IN_RULE = re.compile(
    r"\\.|([{}])|(:setOperations )(?=\{)"
    r"|:resno (\d+) :resname (?:\\.|[^\s\\])+ :ressortgroupref \d+ :resorigtbl (\d+) :resorigcol (\d+)",
    re.DOTALL,
)
"""Of a query tree as the catalog keeps it: https://github.com/postgres/postgres/blob/master/src/include/nodes/primnodes.h (TargetEntry)"""
_rules: dict[tuple[int, str], list[tuple[int, Column]]] = {}


def view_columns(rule: str) -> list[tuple[int, Column]]:
    """(its number in the view, the column it comes from) of each column of a view's query; (0, 0) for an expression's."""
    depth, arms = 0, False
    own: list[tuple[int, Column]] = []
    of_arms: list[tuple[int, Column]] = []
    for brace, sets, number, table, column in _IN_RULE.findall(rule):
        if brace:
            depth += 1 if brace == "{" else -1
        elif sets:
            arms = arms or depth == 1
        elif number:
            entry = int(number), (int(table), int(column))
            if depth == 2:
                own.append(entry)
            elif depth == 4:
                of_arms.append(entry)
    return [*own, *of_arms] if arms else own  # the arms of a UNION say where its columns come from


def _views(connection: psycopg.Connection[Any], tables: list[int]) -> dict[int, list[tuple[int, Column]]]:
    """The views that read these tables, or other such views, and where their columns come from."""
    out: dict[int, list[tuple[int, Column]]] = {}
    for rule, version, view in connection.execute(_VIEWS, {"tables": tables}).fetchall():
        known = _rules.get((rule, version))
        if known is None:
            row = connection.execute(_RULE, (rule,)).fetchone()
            if len(_rules) >= MAX_RULES:
                _rules.clear()
            known = _rules[rule, version] = view_columns(row[0]) if row is not None else []
        out[view] = known
    return out


def _follow(views: dict[int, list[tuple[int, Column]]], origins: set[Column], identity_tables: set[int]) -> None:
    """What views show of these columns and tables belongs to them."""
    more = True
    while more:
        more = False
        for view, columns in views.items():
            shown = {(view, number) for number, source in columns if source in origins}
            patients = any(source[0] in identity_tables for _, source in columns)
            # Of expressions only: nobody can tell whose they are, as with such a SELECT.
            patients = patients or not any(source[0] for _, source in columns)
            if not shown <= origins or (patients and view not in identity_tables):
                more = True
                origins |= shown
                identity_tables |= {view} if patients else set()


@dataclass(frozen=True, slots=True)
class Resolved:
    """See the module. Sorted, so that equal answers are equal."""

    origins: list[Column]
    others: list[Column]
    identity_tables: list[int]
    """Tables whose configured column is unique: each patient has one row there, with or without its identifier. And views that show
    columns of such a table, or expressions only."""
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
        identity_tables = {table for table, column in unique if (table, column) in origins}
        _follow(_views(connection, [table for table, _ in origins]), origins, identity_tables)
        same_name = set(connection.execute(_SAME_NAME, {"columns": sorted(names)}).fetchall())
        live = connection.execute(_COPIED, {"tables": [table for table, _ in origins]}).fetchall()
    tables: dict[tuple[str, str], list[Any]] = {}
    for oid, schema, table, copied, shown, attnum, name, type_oid, copied_at, shown_at in live:
        known = tables.setdefault((schema, table), [schema, table, copied, shown, []])
        if (oid, attnum) in origins:
            known[4].append([name, type_oid, copied_at, shown_at])
    for known in tables.values():
        known[4].sort()
    in_order = [tables[key] for key in sorted(tables)]
    return Resolved(sorted(origins), sorted(same_name - origins), sorted(identity_tables), in_order)
