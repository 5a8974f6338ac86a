"""The reports: both languages, every format, hostile names; readable as text, and nothing in them from outside."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from exfilguard.detect.policy import load_policy
from exfilguard.events.action import Action
from exfilguard.events.chain import ChainWriter
from exfilguard.events.codec import encode_action, encode_verdict
from exfilguard.events.verdict import Verdict
from exfilguard.evidence import incident, notification, review, words
from exfilguard.evidence.archive import DAY_MS
from exfilguard.evidence.document import Document
from exfilguard.evidence.ledger import Ledger
from exfilguard.evidence.reader import ArchiveReader
from exfilguard.evidence.render import html, pdf
from exfilguard.evidence.resolve import Candidate, resolve
from exfilguard.evidence.signing import signer_at
from exfilguard.evidence.words import LANGUAGES, Words

from .test_archive import NOW, event
from .test_exposure import DIGESTER, archive, digest

HOSTILE = '<script>alert("x")</script>\'; DROP ROLE é漢 ' + "x" * 64
POLICY = """
version = "p1"
default_class = "anybody"
[class.anybody]
limits = [ { unit = "patients", window = "24h", alert = 1_000 } ]
[class.doctor]
limits = [ { unit = "patients", window = "24h", alert = 100 } ]
[accounts]
"dr.*" = "doctor"
[[allowance]]
account = "batch"
reason = "nightly <extraction>"
owner = "dim"
since = 2025-11-01
expires = 2025-12-01
class = "anybody"
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    tmp_path = tmp_path_factory.mktemp("reports")
    shape = {
        "fingerprint": "aa" * 8,
        "patients_by": "origin",
        "query": "select id , nom from patient",
        "columns": ["id", "nom"],
    }
    events = [
        event("dr.gone", NOW - 120 * DAY_MS, rows=1, patients=[digest(5)], **shape),
        event(HOSTILE, NOW - 9, source="10.0.0.9", application="dpi-export") | {"kind": "login"},
        event(HOSTILE, NOW, rows=3, patients=[digest(n) for n in (1, 2, 3)], source="10.0.0.9", **shape),
        event(HOSTILE, NOW + 5, rows=2, patients=["f" * 16], patients_estimated=1, patients_by="estimate", source="10.0.0.9"),
        event(HOSTILE, NOW + 40, source="10.0.0.9") | {"kind": "refused", "detail": "verdict"},
        *[event("dr.house", NOW - n * DAY_MS, rows=1, patients=[digest(n)], **shape) for n in range(6)],
    ]  # fmt: skip
    found = archive(tmp_path / "archive", events)
    ledger = Ledger(tmp_path / "archive" / "ledger", signer_at(tmp_path / "k"), NOW)
    writer = ChainWriter("detector:1", "e")
    records = [
        ("verdict", encode_verdict(Verdict("clinic", HOSTILE, "lock", 1, NOW + 10, "took 5 patients in 10s", "detector:1", unit="patients", window_ms=10_000, total=5, limit=3, crossed_ms=NOW + 5))),
        ("action", encode_action(Action("clinic", HOSTILE, "postgres", "lock", "done", True, 1, NOW + 20, NOW + 60, "NOLOGIN set"))),
        ("verdict", encode_verdict(Verdict("clinic", HOSTILE, "none", 2, NOW + 9_000, "was the <b>yearly</b> export", "operator:anna"))),
        ("action", encode_action(Action("clinic", HOSTILE, "postgres", "unlock", "done", True, 2, NOW + 9_010, NOW + 9_020, "LOGIN restored"))),
    ]  # fmt: skip
    entries = [
        {"type": kind, "from": ["t", 0, n, "i"], "record": writer.seal(data).decode()}
        for n, (kind, data) in enumerate(records)
    ]
    ledger.append(entries, NOW)
    return found


def documents(reader: ArchiveReader, language: str) -> list[Document]:
    said = Words(language)
    ledger = reader.root / "ledger"
    found = incident.incident(reader, ledger, "clinic", HOSTILE, NOW - DAY_MS, NOW + DAY_MS, NOW + 10_000)
    assert len(found.exposure.patients) == 3
    assert found.exposure.estimated == 2
    assert (found.state, found.suspended_ms, found.cut_ms) == ("none", NOW + 60, NOW + 10)
    assert [m.kind for m in found.timeline] == [
        "login", "first_read", "last_read", "crossed", "verdict", "refused", "action", "lifted", "action"
    ]  # fmt: skip
    who = notification.Establishment("Clinique du <Parc>", "1 rue de l'Église", "dpo@example.org")
    resolution = resolve(found.exposure, DIGESTER, [Candidate(str(n)) for n in range(3)])
    grants = {"dr.house": ["public.patient", "public.sejour"]}
    zone = ZoneInfo("Europe/Paris")
    reviewed = review.review(
        reader, ledger, "clinic", load_policy(POLICY, "p"), NOW - 30 * DAY_MS, NOW + DAY_MS, 90 * DAY_MS, zone, grants
    )
    assert reviewed.dormant == [("dr.gone", NOW - 120 * DAY_MS)]
    assert reviewed.grants == [("dr.house", "public.sejour")]
    assert [a.principal for a in reviewed.oversized] == ["dr.house"]
    assert {a.principal: (a.patients, a.peak_patients, a.days, a.named) for a in reviewed.accounts} == {
        HOSTILE: (3, 3, 1, False),
        "dr.house": (6, 1, 6, True),
    }
    return [
        incident.document(found, said, who.name, NOW, "1.0"),
        notification.exposure_document(found.exposure, resolution, "list.csv", said, who, NOW, "1.0"),
        notification.exposure_document(found.exposure, None, "", said, who, NOW, "1.0"),
        notification.draft(found, said, who, NOW, "1.0"),
        review.document(reviewed, said, who.name, NOW, "1.0"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_report_escapes_what_it_shows_and_refers_to_nothing(reader: ArchiveReader, language: str) -> None:
    for document in documents(reader, language):
        text = html(document)
        assert "<script" not in text
        assert "<b>yearly" not in text
        assert "<Parc>" not in text
        assert "&lt;Parc&gt;" in text or "clinic" in text
        assert not re.search(r"\b(?:src|href)=|@import|url\(", text)
        assert f'<html lang="{language}">' in text
        assert "{" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL), "a word that was not filled in"


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="apt install poppler-utils")
def test_the_pdfs_say_it_too(reader: ArchiveReader, tmp_path: Path) -> None:
    expected = {
        "fr": ["Rapport d'incident", "Patients et données exposés", "exposés", "article 33", "Revue mensuelle"],
        "en": ["Incident report", "Patients and data exposed", "exposed", "article 33", "access review"],
    }
    for language in LANGUAGES:
        made = list(zip(documents(reader, language), expected[language], strict=True))
        for document, phrase in made if language == "fr" else made[:1]:
            path = tmp_path / "r.pdf"
            path.write_bytes(pdf(document))
            said = subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True)
            assert phrase in said.stdout
            assert "10.0.0.9" in said.stdout or phrase not in ("Incident report", "Rapport d'incident")


def test_both_languages_have_every_word_and_the_same_blanks() -> None:
    blanks = string.Formatter()
    for key, (french, english) in words._WORDS.items():
        fields = [{name for _, name, _, _ in blanks.parse(text) if name} for text in (french, english)]
        assert fields[0] == fields[1], key
        assert french, key
        assert english, key


def test_the_draft_has_what_article_33_asks_for(reader: ArchiveReader) -> None:
    """GDPR 33(3): nature, categories and numbers of people and records; contact; consequences; measures. 33(4): phases."""
    draft = documents(reader, "en")[3]
    text = html(draft)
    for item in ("Nature", "Categories of people", "Approximate number of people", "Approximate number of records",
                 "Data protection officer", "Likely consequences", "Measures taken", "Measures proposed", "in phases",
                 "Became aware", "72 hours", "article 34", "dpo@example.org"):  # fmt: skip
        assert item in text, item
    assert text.count('class="todo"') >= 8


def test_times_and_numbers_in_both_languages() -> None:
    fr, en = Words("fr"), Words("en", "UTC")
    assert fr.number(1234567) == "1\u202f234\u202f567"
    assert en.number(1234567) == "1,234,567"
    assert fr.time(NOW) == "24 novembre 2025 à 17:00:00"
    assert en.time(NOW + 7, precise=True) == "24 November 2025, 16:00:00.007"
    assert [fr.duration(ms) for ms in (85, 1_200, 90_000, 7_200_000, 7 * DAY_MS)] == [
        "85 ms", "1,2 s", "1,5 min", "2 h", "7 j"
    ]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "fr"])
def test_a_time_that_no_calendar_has_is_its_last(language: str) -> None:
    words, late = Words(language, "Pacific/Kiritimati"), (1 << 53) - 1
    assert all("9999" in text for text in (words.time(late), words.day(late)))
    assert words.clock(late).startswith("31/12")
