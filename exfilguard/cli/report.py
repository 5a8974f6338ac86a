"""`exfilguard report incident | exposure | access-review`: HTML, PDF and JSON from the archive and the ledger.

Lists of patients by name are written only where the digest key and a list of candidates are given, and only to the CSV file,
readable by its owner.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import orjson

from .. import __version__
from ..config.schema import Config
from ..errors import ConfigError, EvidenceError
from ..runtime import mysql
from ..runtime.clock import now_ms
from .archive import tell_skipped
from .common import add_config_option, load
from .grants import may_read
from .period import add_period_options, period_ms

if TYPE_CHECKING:
    from ..evidence.document import Document
    from ..evidence.resolve import Candidate

FORMATS = ("html", "pdf", "json")


def register(commands: Any) -> None:
    text = "incident, exposure and access-review reports"
    parser = commands.add_parser("report", help=text, description=text)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="incident | exposure | access-review")
    incident = kinds.add_parser("incident", help="what happened with an account, what was done, how to undo it")
    exposure = kinds.add_parser(
        "exposure", help="which patients and columns an account took; draft notification (GDPR art. 33)"
    )
    for one, function in ((incident, run_incident), (exposure, run_exposure)):
        one.add_argument("principal", metavar="ACCOUNT")
        add_period_options(one, "7d")
        one.set_defaults(run=function)
    exposure.add_argument(
        "--identifiers", metavar="FILE", help="one patient identifier a line, what to show beside it after ; or a tab"
    )
    exposure.add_argument("--dsn-file", metavar="FILE", help="connection string of an account that may read --column")
    exposure.add_argument(
        "--column", metavar="TABLE.COLUMN", help="where the identifiers are, as in patient_columns; with --dsn-file"
    )
    exposure.add_argument(
        "--show", default="", metavar="COLUMN,..", help="columns of the same table to put in the list"
    )
    exposure.add_argument("--key-file", metavar="FILE", help="the digest key; default: of this configuration")
    review = kinds.add_parser("access-review", help="the monthly review of accounts")
    review.add_argument("--month", metavar="2026-11", help="default: the last 30 days")
    review.add_argument("--dsn-file", metavar="FILE", help="connection string that may read the catalog: unused grants")
    review.set_defaults(run=run_review)
    for one in (incident, exposure, review):
        add_config_option(one)
        one.add_argument("--lang", choices=("fr", "en"), help="default: report.language")
        one.add_argument("--out", default=".", metavar="DIR", help="where the files go; default: here")
        one.add_argument(
            "--format", default="html,pdf,json", metavar="LIST", help="of html, pdf, json; default: %(default)s"
        )
        one.add_argument("--json", action="store_true", help="print the JSON, write no file")


# -- common -----------------------------------------------------------------------------------------------------------


class Job:
    """Configuration, period, language and where the files go."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Raises ConfigError, EvidenceError."""
        from ..evidence.reader import ArchiveReader
        from ..evidence.words import Words

        self.args = args
        self.config: Config = load(args)
        self.now_ms = now_ms()
        self.zone = ZoneInfo(self.config.report.timezone)
        self.words = Words(args.lang or self.config.report.language, self.config.report.timezone)
        self.formats = [word.strip() for word in args.format.split(",") if word.strip()]
        if bad := [word for word in self.formats if word not in FORMATS]:
            raise ConfigError([f"--format: {bad[0]} is none of {', '.join(FORMATS)}"])
        self.reader = ArchiveReader(Path(self.config.archive_dir))
        self.ledger = Path(self.config.archive_dir) / "ledger"
        self.out = Path(args.out)

    def period(self) -> tuple[int, int]:
        return period_ms(self.args, self.now_ms, self.zone)

    def name(self, kind: str, about: str) -> str:
        """A file name that no account name can break."""
        moment = dt.datetime.fromtimestamp(self.now_ms / 1000, self.zone)
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", about).strip("._")[:60] or "account"
        return f"{kind}-{safe}-{moment:%Y%m%d-%H%M%S}"

    def moment(self, ms: int) -> str:
        """`2026-11-24 07:37:59.350`, in the report's zone."""
        at = dt.datetime.fromtimestamp(ms / 1000, self.zone)
        return f"{at:%Y-%m-%d %H:%M:%S}.{ms % 1000:03d}"

    def write(self, name: str, data: bytes) -> Path:
        """Readable by its owner only. Raises EvidenceError."""
        path = self.out / name
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise EvidenceError(f"{path}: cannot be written: {error.strerror}: choose another --out") from None
        return path

    def write_document(self, document: Document, stem: str, data: dict[str, Any] | None = None) -> list[Path]:
        """The formats that were asked for. Raises EvidenceError."""
        from ..evidence.render import html, pdf

        out = []
        if "html" in self.formats:
            out.append(self.write(f"{stem}.html", html(document).encode()))
        if "pdf" in self.formats:
            out.append(self.write(f"{stem}.pdf", pdf(document)))
        if "json" in self.formats and data is not None:
            out.append(self.write(f"{stem}.json", orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n"))
        return out

    def tell(self, files: list[Path], said: str) -> int:
        """0; 1 when a damaged file was left out, so that no script overlooks it."""
        print(said)
        for path in files:
            print(f"  {path}")
        tell_skipped(self.reader.skipped)
        return 1 if self.reader.skipped else 0

    def done_json(self, data: dict[str, Any]) -> int:
        print(orjson.dumps(data).decode())
        tell_skipped(self.reader.skipped)
        return 1 if self.reader.skipped else 0


def run_incident(args: argparse.Namespace) -> int:
    """0: written; 1: written, and a damaged file was left out."""
    from ..evidence import incident

    job = Job(args)
    start, end = job.period()
    found = incident.incident(job.reader, job.ledger, job.config.tenant, args.principal, start, end, job.now_ms)
    if args.json:
        return job.done_json(found.as_json())
    document = incident.document(found, job.words, job.config.report.establishment, job.now_ms, __version__)
    files = job.write_document(document, job.name("incident", args.principal), found.as_json())
    return job.tell(files, document.headline.text)


# -- exposure -----------------------------------------------------------------------------------------------------------


def run_exposure(args: argparse.Namespace) -> int:
    """0: written; 1: written, and a damaged file was left out."""
    from ..evidence import incident, notification
    from ..evidence.resolve import resolve, rows_of

    job = Job(args)
    start, end = job.period()
    found = incident.incident(job.reader, job.ledger, job.config.tenant, args.principal, start, end, job.now_ms)
    taken = found.exposure
    resolution = None
    shown = [word.strip() for word in args.show.split(",") if word.strip()]
    if args.identifiers or args.dsn_file:
        resolution = resolve(taken, _digester(job), _candidates(args, shown))
    data = {**taken.as_json(), "resolved": len(resolution.found) if resolution is not None else None}
    if args.json:
        return job.done_json(data)
    stem = job.name("exposure", args.principal)
    width = len(shown) if args.dsn_file else 1
    if resolution is not None and args.identifiers:
        width = max((len(c.shown) for c in resolution.found.values()), default=0)
    csv_path = job.write(f"{stem}.csv", _csv(rows_of(taken, resolution, width, job.moment), shown))
    report = job.config.report
    who = notification.Establishment(report.establishment, report.address, report.dpo)
    document = notification.exposure_document(taken, resolution, csv_path.name, job.words, who, job.now_ms, __version__)
    files = [csv_path, *job.write_document(document, stem, data)]
    draft = notification.draft(found, job.words, who, job.now_ms, __version__)
    files += job.write_document(draft, job.name("notification", args.principal))
    return job.tell(files, document.headline.text)


def _csv(rows: list[Any], shown: list[str]) -> bytes:
    import io

    text = io.StringIO()
    names = list(rows[0]) if rows else ["digest", "identifier", "kind", "first", "last", "times", "columns"]
    titles = {f"value_{n + 1}": title for n, title in enumerate(shown)}
    writer = csv.writer(text)
    writer.writerow([titles.get(name, name) for name in names])
    for row in rows:
        writer.writerow([_harmless(row[name]) for name in names])
    return text.getvalue().encode("utf-8-sig")


def _harmless(value: object) -> object:
    """A cell that a spreadsheet would take for a formula is text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _digester(job: Job) -> Any:
    from ..evidence.resolve import digester_of

    if job.args.key_file:
        path = Path(job.args.key_file)
    elif job.config.sidecar.digest_key:
        return digester_of(job.config.sidecar.digest_key)
    else:
        path = Path(job.config.data_dir) / "digest.key"
    try:
        return digester_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ConfigError([f"{path}: the digest key cannot be read: give --key-file"]) from None


def _candidates(args: argparse.Namespace, shown: list[str]) -> Iterator[Candidate]:
    from ..evidence.resolve import identifiers

    if args.identifiers:
        try:
            with open(args.identifiers, encoding="utf-8") as file:
                yield from identifiers(file)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError([f"--identifiers {args.identifiers}: cannot be read: {reason}"]) from None
    if args.dsn_file:
        if not args.column:
            raise ConfigError(["--column: is needed with --dsn-file: TABLE.COLUMN that holds the identifiers"])
        dsn = _secret(args.dsn_file)
        yield from (_from_mysql if mysql.is_mysql(dsn) else _from_postgres)(dsn, args.column, shown)


def _secret(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError([f"--dsn-file {name}: cannot be read"]) from None


def _from_postgres(dsn: str, column: str, shown: list[str]) -> Iterator[Candidate]:
    """Every identifier of the table, streamed. Raises ConfigError, EvidenceError."""
    import psycopg
    from psycopg import sql

    from ..evidence.resolve import Candidate

    *table, name = column.split(".")
    if not 1 <= len(table) <= 2:
        raise ConfigError(["--column: write it as table.column or schema.table.column"])
    source, wanted = sql.Identifier(*table), sql.Identifier(name)
    values = sql.SQL(", ").join([wanted, *[sql.SQL("{}::text").format(sql.Identifier(c)) for c in shown]])
    try:
        with psycopg.connect(dsn, connect_timeout=10, application_name="exfilguard-report") as connection:
            probe = connection.execute(sql.SQL("SELECT {} FROM {} LIMIT 0").format(wanted, source))
            oid = probe.description[0].type_code if probe.description else 0
            with connection.cursor(name="candidates") as cursor:
                cursor.itersize = 10_000
                cursor.execute(sql.SQL("SELECT {} FROM {}").format(values, source))
                for identifier, *others in cursor:
                    if identifier is not None:
                        yield Candidate(str(identifier), tuple("" if v is None else str(v) for v in others), oid)
    except psycopg.Error as error:
        code = error.sqlstate or type(error).__name__
        raise EvidenceError(
            f"the database did not give the identifiers ({code}): check --dsn-file, --column, --show"
        ) from None


def _from_mysql(dsn: str, column: str, shown: list[str]) -> Iterator[Candidate]:
    """The same of MySQL and MariaDB; `column` as table.column or database.table.column. Raises ConfigError, EvidenceError."""
    import pymysql

    from ..evidence.resolve import Candidate

    parts = column.split(".")
    if not 2 <= len(parts) <= 3:
        raise ConfigError(["--column: write it as table.column or database.table.column"])
    *table, name = ["`" + part.replace("`", "``") + "`" for part in parts]
    wanted = ", ".join([name, *["`" + c.replace("`", "``") + "`" for c in shown]])

    def text(value: Any) -> str:
        if isinstance(value, bytes):  # a UUID in 16 bytes, as the sidecar reads it
            return value.hex() if len(value) == 16 else value.decode("utf-8", "replace")
        return "" if value is None else str(value)

    try:
        with (
            mysql.connect(dsn, program_name="exfilguard-report") as connection,
            connection.cursor(pymysql.cursors.SSCursor) as cursor,
        ):
            cursor.execute(f"SELECT {wanted} FROM {'.'.join(table)}")  # noqa: S608 -- quoted above
            for identifier, *others in cursor:
                if identifier is not None:
                    yield Candidate(text(identifier), tuple(text(value) for value in others))
    except (pymysql.MySQLError, OSError, ValueError) as error:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else type(error).__name__
        raise EvidenceError(
            f"the database did not give the identifiers ({code}): check --dsn-file, --column, --show"
        ) from None


# -- access review --------------------------------------------------------------------------------------------------------


def run_review(args: argparse.Namespace) -> int:
    """0: written; 1: written, and a damaged file was left out."""
    from ..detect.policy import policy_at
    from ..evidence import review

    job = Job(args)
    start, end = _month(args.month, job)
    config = job.config
    grants = None
    if args.dsn_file:
        dsn = _secret(args.dsn_file)
        grants = may_read(dsn, config)
    found = review.review(
        job.reader, job.ledger, config.tenant, policy_at(config.detector.policy), start, end, config.report.dormant_ms,
        job.zone, grants,
    )  # fmt: skip
    if args.json:
        return job.done_json(found.as_json())
    document = review.document(found, job.words, config.report.establishment, job.now_ms, __version__)
    files = job.write_document(document, job.name("access-review", args.month or "30d"), found.as_json())
    return job.tell(files, document.headline.text)


def _month(text: str | None, job: Job) -> tuple[int, int]:
    if text is None:
        return job.now_ms - 30 * 86_400_000, job.now_ms + 1
    try:
        first = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=job.zone)
    except ValueError:
        raise ConfigError(["--month: write it as 2026-11"]) from None
    following = (first + dt.timedelta(days=32)).replace(day=1)
    return int(first.timestamp() * 1000), min(int(following.timestamp() * 1000), job.now_ms + 1)
