"""Compiled parts. All metadata is in pyproject.toml; this file only lists the extensions.

Each extension is optional at install time: without a C compiler the wire readers run the same source, interpreted, and the
detector's windows say that they need one. The tests and CI fail when a compiled part was expected and not loaded.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = {
    "exfilguard.windows._core": "exfilguard/windows/_core.pyx",
    "exfilguard.wire.postgres._scan": "exfilguard/wire/postgres/_scan.py",
    "exfilguard.wire.mysql._scan": "exfilguard/wire/mysql/_scan.py",
    "exfilguard.wire.postgres.backend": "exfilguard/wire/postgres/backend.py",
    "exfilguard.wire.postgres.frontend": "exfilguard/wire/postgres/frontend.py",
    "exfilguard.events._encode": "exfilguard/events/_encode.pyx",
    "exfilguard.observe.outlet": "exfilguard/observe/outlet.py",
    "exfilguard.observe.session": "exfilguard/observe/session.py",
    "exfilguard.sidecar._segment": "exfilguard/sidecar/_segment.pyx",
    "exfilguard.sidecar._pump": "exfilguard/sidecar/_pump.pyx",
    "exfilguard.sidecar.journal": "exfilguard/sidecar/journal.py",
    "exfilguard.sidecar._records": "exfilguard/sidecar/_records.py",
    "exfilguard.observe._hot": "exfilguard/observe/_hot.pyx",
}

extensions = [
    Extension(
        name,
        [source],
        depends=[str(header) for header in Path(source).parent.glob("*.h")],
        optional=True,
        extra_compile_args=["-O3"],
    )
    for name, source in SOURCES.items()
    if Path(source).exists()
]
setup(
    ext_modules=cythonize(
        extensions,
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False, "cdivision": True},
    )
)
