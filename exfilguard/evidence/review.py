"""The monthly access review: every account, its class, what it read; who is dormant, what is not needed, what expires."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..detect.policy import UNITS, Policy
from ..events.verdict import severity
from .document import Cell, Document, Section, Table
from .export import Decisions, decided
from .incident import MAX_LINES, damaged_section, decisions_section, more
from .reader import ArchiveReader
from .words import Words

DAY_MS = 86_400_000
SOON_MS = 30 * DAY_MS
FRACTION = 10
"""An account whose peak stays below a tenth of its class's first limit needs less than its class."""


@dataclass(frozen=True, slots=True)
class AccountUse:
    """One account in the period."""

    principal: str
    class_name: str
    named: bool
    """A rule of the policy names it; else it has the default class."""
    first_ms: int
    last_ms: int
    days: int
    statements: int
    rows: int
    patients: int
    """Distinct, identified."""
    peak_patients: int
    """On its busiest day."""
    sources: int
    night: int
    """Statements between 22:00 and 06:00 of the report's zone."""
    failed_logins: int
    verdicts: int
    first_limit: int
    """The class's smallest limit of patients in a day; 0: none."""


@dataclass(frozen=True, slots=True)
class AllowanceState:
    """One `[[allowance]]` of the policy."""

    account: str
    reason: str
    expires_ms: int
    used: bool


@dataclass(slots=True)
class Review:
    """See the module."""

    tenant: str
    from_ms: int
    to_ms: int
    policy: str
    default_class: str
    accounts: list[AccountUse] = field(default_factory=list)
    dormant: list[tuple[str, int]] = field(default_factory=list)
    """(account, last activity)"""
    grants: list[tuple[str, str]] | None = None
    """(account, table): may read it, and did not; None: the database was not asked."""
    oversized: list[AccountUse] = field(default_factory=list)
    allowances: list[AllowanceState] = field(default_factory=list)
    break_glass: list[str] = field(default_factory=list)
    """Emergency accounts that were used."""
    decisions: Decisions = field(default_factory=lambda: Decisions([], []))
    skipped: dict[str, str] = field(default_factory=dict)

    def soon(self, now_ms: int) -> list[AllowanceState]:
        return [a for a in self.allowances if a.expires_ms < now_ms + SOON_MS]

    def attention(self, now_ms: int) -> int:
        """Lines that somebody should look at."""
        return (
            len(self.dormant)
            + len(self.grants or ())
            + len(self.oversized)
            + len(self.soon(now_ms))
            + len(self.break_glass)
        )

    def as_json(self) -> dict[str, Any]:
        return {
            **{k: getattr(self, k) for k in ("tenant", "from_ms", "to_ms", "policy", "default_class", "dormant", "grants", "break_glass", "skipped")},
            "accounts": [asdict(a) for a in self.accounts],
            "oversized": [a.principal for a in self.oversized],
            "allowances": [asdict(a) for a in self.allowances],
            "verdicts": [asdict(v) for v in self.decisions.verdicts],
            "actions": [asdict(a) for a in self.decisions.actions],
        }  # fmt: skip


def review(
    reader: ArchiveReader,
    ledger: Path,
    tenant: str,
    policy: Policy,
    from_ms: int,
    to_ms: int,
    dormant_ms: int,
    zone: dt.tzinfo,
    grants: Mapping[str, Sequence[str]] | None = None,
) -> Review:
    """`grants`: account -> tables of patients it may read, as the database says. Raises EvidenceError."""
    out = Review(tenant, from_ms, to_ms, policy.version, policy.default_class)
    out.decisions = decided(ledger, tenant, "", from_ms, to_ms)
    shift_ms = int(
        (dt.datetime.fromtimestamp(from_ms / 1000, zone).utcoffset() or dt.timedelta()).total_seconds() * 1000
    )
    connection = reader.scan(tenant, from_ms, to_ms)
    rows = connection.execute(
        f"""
        WITH a AS (
          SELECT principal, min(time_ms) AS first, max(time_ms) AS last, count(DISTINCT (time_ms + {shift_ms}) // {DAY_MS}) AS days,
                 count(*) FILTER (kind = 'query') AS statements, sum(rows) AS rows, count(DISTINCT source) AS sources,
                 count(*) FILTER (kind = 'query' AND ((time_ms + {shift_ms}) % {DAY_MS} < {6 * 3_600_000}
                                                      OR (time_ms + {shift_ms}) % {DAY_MS} >= {22 * 3_600_000})) AS night,
                 count(*) FILTER (kind = 'login_failed') AS failed
            FROM events GROUP BY 1),
        d AS (
          SELECT principal, (time_ms + {shift_ms}) // {DAY_MS} AS day, unnest(patients) AS p
            FROM events WHERE patients_by <> 'estimate'),
        peaks AS (SELECT principal, max(n) AS peak FROM
                   (SELECT principal, day, count(DISTINCT p) AS n FROM d GROUP BY 1, 2) GROUP BY 1),
        totals AS (SELECT principal, count(DISTINCT p) AS patients FROM d GROUP BY 1)
        SELECT a.principal, first, last, days, statements, rows, coalesce(patients, 0), coalesce(peak, 0), sources, night, failed
          FROM a LEFT JOIN totals USING (principal) LEFT JOIN peaks USING (principal) ORDER BY 7 DESC, rows DESC, 1
        """  # noqa: S608 -- whole numbers only
    ).fetchall()
    verdicts: dict[str, int] = {}
    for v in out.decisions.verdicts:
        if v.level != "none":
            verdicts[v.principal] = verdicts.get(v.principal, 0) + 1
    for principal, first, last, days, statements, count, patients, peak, sources, night, failed in rows:
        name = policy.class_of(principal)
        use = AccountUse(
            principal=principal,
            class_name=name,
            named=any(fnmatchcase(principal, pattern) for pattern, _ in policy.accounts),
            first_ms=int(first),
            last_ms=int(last),
            days=int(days),
            statements=int(statements),
            rows=int(count),
            patients=int(patients),
            peak_patients=int(peak),
            sources=int(sources),
            night=int(night),
            failed_logins=int(failed),
            verdicts=verdicts.get(principal, 0),
            first_limit=_first_limit(policy, name),
        )
        out.accounts.append(use)
        if use.days >= 5 and use.first_limit and use.peak_patients * FRACTION < use.first_limit and not use.verdicts:
            out.oversized.append(use)
    active = {use.principal for use in out.accounts if use.statements}
    out.dormant = _dormant(reader, tenant, to_ms, dormant_ms)
    out.allowances = [
        AllowanceState(
            a.account,
            f"{a.reason} ({a.owner})" if a.owner else a.reason,
            a.expires_ms,
            any(fnmatchcase(p, a.account) for p in active),
        )
        for a in policy.allowances
    ]
    out.break_glass = sorted(policy.break_glass & active)
    if grants is not None:
        out.grants = _unused(connection, grants)
    out.skipped = dict(reader.skipped)
    return out


def _first_limit(policy: Policy, name: str) -> int:
    """The smallest number of patients at which the class's longest window of at most a day speaks."""
    unit = UNITS.index("patients")
    limits = [limit for limit in policy.classes[name].limits if limit.unit == UNITS[unit] and limit.steps]
    return max((limit.steps[0][1] for limit in limits), default=0)


def _dormant(reader: ArchiveReader, tenant: str, to_ms: int, dormant_ms: int) -> list[tuple[str, int]]:
    first, _ = reader.span_ms(tenant)
    found = reader.scan(tenant, first, to_ms).execute(
        "SELECT principal, max(time_ms) FROM events GROUP BY 1 HAVING max(time_ms) < ? ORDER BY 2, 1",
        [to_ms - dormant_ms],
    )
    return [(principal, int(last)) for principal, last in found.fetchall()]


def _unused(connection: Any, grants: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Tables that no statement of the account names: by the text of its shapes."""
    texts: dict[str, str] = {}
    rows = connection.execute(
        "SELECT principal, string_agg(DISTINCT lower(query), ' ') FROM events JOIN shapes USING (fingerprint) "
        "WHERE rows > 0 OR hidden_rows > 0 GROUP BY 1"
    ).fetchall()
    for principal, text in rows:
        texts[principal] = f" {text} "
    out = []
    for principal, tables in sorted(grants.items()):
        words = set(texts.get(principal, "").replace(".", " ").replace('"', " ").split())
        out += [(principal, table) for table in tables if table.rpartition(".")[2].lower() not in words]
    return out


# -- as a document --------------------------------------------------------------------------------------------------


def document(found: Review, words: Words, establishment: str, now_ms: int, version: str) -> Document:
    """The report."""
    number = words.number
    accounts = Table(
        [words(h) for h in ("account", "class", "days", "statements", "rows", "patients", "peak", "sources_n", "night", "verdicts_n")],
        [
            [
                Cell(a.principal, code=True),
                Cell(a.class_name),
                Cell(number(a.days), number=True),
                Cell(number(a.statements), number=True),
                Cell(number(a.rows), number=True),
                Cell(number(a.patients), number=True),
                Cell(number(a.peak_patients), number=True),
                Cell(number(a.sources), number=True),
                Cell(number(a.night), number=True),
                Cell(number(a.verdicts), "bad" if a.verdicts else "", number=True),
            ]
            for a in found.accounts[:MAX_LINES]
        ],
        more(len(found.accounts), words),
        [20, 12, 7, 10, 10, 9, 10, 9, 7, 6],
    )  # fmt: skip
    sections = [
        Section(
            words("accounts_title"),
            tables=[accounts] if found.accounts else [],
            paragraphs=[] if found.accounts else [Cell(words("none"))],
        )
    ]
    sections += damaged_section(found.skipped, words)
    if found.dormant:
        rows = [[Cell(p, code=True), Cell(words.day(last))] for p, last in found.dormant[:MAX_LINES]]
        days = (found.to_ms - max(last for _, last in found.dormant)) // DAY_MS
        text = Cell(words("dormant_text", days=days))
        sections.append(
            Section(
                words("dormant_title"),
                [text],
                tables=[Table([words("account"), words("last_seen")], rows, more(len(found.dormant), words))],
            )
        )
    unused = Section(words("unused_title"))
    if found.grants is None:
        unused.paragraphs.append(Cell(words("unused_ask"), "todo"))
    elif found.grants:
        unused.paragraphs.append(Cell(words("unused_grants")))
        rows = [[Cell(p, code=True), Cell(t, code=True)] for p, t in found.grants[:MAX_LINES]]
        unused.tables.append(Table([words("account"), words("table")], rows, more(len(found.grants), words)))
    if found.oversized:
        unused.paragraphs.append(Cell(words("unused_class")))
        rows = [
            [
                Cell(a.principal, code=True),
                Cell(a.class_name),
                Cell(number(a.peak_patients), number=True),
                Cell(number(a.first_limit), number=True),
            ]
            for a in found.oversized[:MAX_LINES]
        ]
        unused.tables.append(
            Table([words(h) for h in ("account", "class", "peak", "limit")], rows, more(len(found.oversized), words))
        )
    if not unused.paragraphs:
        unused.paragraphs.append(Cell(words("none")))
    sections.append(unused)
    default = [a for a in found.accounts if not a.named and a.statements]
    if default:
        rows = [[Cell(a.principal, code=True), Cell(number(a.patients), number=True)] for a in default[:MAX_LINES]]
        text = Cell(words("unclassified_text", name=found.default_class))
        sections.append(
            Section(
                words("unclassified"),
                [text],
                tables=[Table([words("account"), words("patients")], rows, more(len(default), words))],
            )
        )
    sections.append(_allowances(found, words, now_ms))
    if found.break_glass:
        sections.append(Section(words("break_glass_used"), [Cell(", ".join(found.break_glass), "bad")]))
    sections.append(decisions_section(found.decisions, words))
    failed = [(a.principal, a.failed_logins) for a in found.accounts if a.failed_logins]
    if failed:
        rows = [
            [Cell(p, code=True), Cell(number(n), number=True)]
            for p, n in sorted(failed, key=lambda f: -f[1])[:MAX_LINES]
        ]
        sections.append(Section(words("failed"), tables=[Table([words("account"), words("failed")], rows)]))
    sections.append(Section(words("sign_title"), facts=[(words("sign"), Cell(words("to_complete"), "todo"))]))
    active = sum(1 for a in found.accounts if a.statements)
    attention = found.attention(now_ms)
    hard = sum(severity(v.level) >= severity("cut") for v in found.decisions.verdicts)
    return Document(
        language=words.language,
        title=words("review_title"),
        subtitle=f"{establishment or found.tenant} · {words.day(found.from_ms)} – {words.day(found.to_ms - 1)}",
        headline=Cell(words("review_headline", active=number(active), dormant=number(len(found.dormant)), attention=number(attention))),
        figures=[
            (number(active), words("active")),
            (number(len(found.dormant)), words("dormant")),
            (number(attention), words("points")),
            (number(hard), f"{words.level('cut')} / {words.level('lock')}"),
        ],
        sections=sections,
        footer=words("made", time=words.time(now_ms), version=version),
    )  # fmt: skip


def _allowances(found: Review, words: Words, now_ms: int) -> Section:
    rows = []
    for a in sorted(found.allowances, key=lambda a: a.expires_ms):
        days = (a.expires_ms - now_ms) // DAY_MS
        if a.expires_ms <= now_ms:
            state = Cell(words("allowance_over"), "bad")
        elif a.expires_ms < now_ms + SOON_MS:
            state = Cell(words("allowance_soon", n=days), "warn")
        else:
            state = Cell(words("allowance_good"))
        if not a.used:
            state = Cell(f"{state.text}, {words('allowance_unused')}", state.tone or "warn")
        rows.append([Cell(a.account, code=True), Cell(a.reason), Cell(words.day(a.expires_ms)), state])
    headers = [words(h) for h in ("account", "reason", "expires", "state")]
    if not rows:
        return Section(words("allowances_title"), [Cell(words("none"))])
    return Section(words("allowances_title"), tables=[Table(headers, rows)])
