"""Orthanc, a PACS whose PostgreSQL index is an entity-attribute-value schema: the patient is in the question, not in the result.

Its plugin asks `.. WHERE publicId = $1` and reads tags by an internal number, so no result has an identifier column. The bar: the
patients that were asked for, by digest, are exactly those that were opened through its REST API.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from exfilguard.config.schema import Config, KafkaConfig, SidecarConfig
from exfilguard.embedded.child import Child, free_port, port_is_taken
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.observe.patients import Digester
from tests.integration.conftest import enterable_directory
from tests.integration.guarded import Guarded
from tests.integration.stack import Stack, listener, port_of, wait_for

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so")
DATABASE, ACCOUNT, PASSWORD = "orthanc_db", "orthanc", secrets.token_urlsafe(12)
DIGEST_KEY = "a digest key for the tests"
PATIENTS = 12


def dicom(patient: int) -> bytes:
    """A synthetic image of one black pixel."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    image.PatientID, image.PatientName = f"IPP-{patient:05d}", f"NOM{patient}^Zoe"
    image.PatientBirthDate, image.PatientSex = "19800101", "F"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.Modality = generate_uid(), generate_uid(), "OT"
    image.Rows = image.Columns = image.SamplesPerPixel = 1
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PhotometricInterpretation, image.PixelData = "MONOCHROME2", b"\0\0"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


class Pacs:
    """Orthanc behind the sidecar, and its REST API."""

    def __init__(self, port: int, guarded: Guarded) -> None:
        self.url, self.guarded = f"http://127.0.0.1:{port}", guarded

    def call(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body), timeout=30) as answer:
            return json.load(answer)

    def asked_and_returned(self, since: int) -> tuple[set[str], set[str]]:
        """Digests of the events behind the first `since`."""
        events = self.guarded.events()[since:]
        return {d for e in events for d in e.get("asked", ())}, {d for e in events for d in e.get("patients", ())}


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        pytest.skip("not installed: orthanc, orthanc-postgresql")
    with enterable_directory() as directory, EmbeddedPostgres(directory / "server") as server:
        with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {ACCOUNT} LOGIN PASSWORD '{PASSWORD}'")
            admin.execute(f"CREATE DATABASE {DATABASE} OWNER {ACCOUNT}")
        config = Config(
            tenant="clinic",
            data_dir=str(directory / "data"),
            kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
            sidecar=SidecarConfig(digest_key=DIGEST_KEY),
            listener=[listener(f"127.0.0.1:{server.port}", patient_columns=["resources.publicid"])],
        )
        stack = Stack(config)
        stack.start("relay")
        stack.relay_ready()
        port = free_port()
        settings = {
            "Name": "test", "StorageDirectory": str(directory / "images"), "IndexDirectory": str(directory / "images"),
            "Plugins": [str(PLUGIN)], "HttpPort": port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "DicomServerEnabled": False, "StableAge": 3600,
            "PostgreSQL": {
                "EnableIndex": True, "EnableStorage": False, "Host": "127.0.0.1", "Lock": True,
                "Port": port_of(config.listener[0].listen), "Database": DATABASE, "Username": ACCOUNT, "Password": PASSWORD,
            },
        }  # fmt: skip
        (directory / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        server_of_images = Child("Orthanc", directory / "orthanc.log")
        server_of_images.start(["Orthanc", str(directory / "orthanc.json")], env={**os.environ})
        try:
            wait_for(lambda: port_is_taken(port), 60, (directory / "orthanc.log").read_text()[-800:])
            yield Pacs(port, Guarded(stack, None))  # type: ignore[arg-type]
        finally:
            server_of_images.stop()
            stack.stop()


def test_the_patients_that_are_opened_are_those_that_were_asked_for(pacs: Pacs) -> None:
    stored = [pacs.call("/instances", dicom(n))["ParentPatient"] for n in range(PATIENTS)]
    assert len(set(stored)) == PATIENTS
    digest = Digester(DIGEST_KEY.encode()).digest
    before = len(pacs.guarded.events())
    opened = stored[2:9]
    for patient in opened:
        found = pacs.call(f"/patients/{patient}")
        assert found["MainDicomTags"]["PatientID"].startswith("IPP-")
    wait_for(lambda: len(pacs.asked_and_returned(before)[0]) >= len(opened), 20, "the events are late")
    asked, _ = pacs.asked_and_returned(before)
    assert asked == {digest(patient.encode()) for patient in opened}


def test_a_list_of_all_patients_returns_them(pacs: Pacs) -> None:
    digest = Digester(DIGEST_KEY.encode()).digest
    for n in range(100, 105):
        pacs.call("/instances", dicom(n))
    before = len(pacs.guarded.events())
    listed = pacs.call("/patients")
    assert len(listed) >= 5
    wanted = {digest(patient.encode()) for patient in listed}
    wait_for(lambda: pacs.asked_and_returned(before)[1] == wanted, 20, "the list is not what was counted")
