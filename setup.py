"""Compiled parts. All metadata is in pyproject.toml; this file only lists the extensions.

Each extension is optional at install time: without a C compiler the wire readers run the same source, interpreted, and the
detector's windows say that they need one. The tests and CI fail when a compiled part was expected and not loaded.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = {
    "exfilguard.windows._core": "exfilguard/windows/_core.pyx",
    "exfilguard.wire.postgres._scan": "exfilguard/wire/postgres/_scan.py",
    "exfilguard.wire.mysql._scan": "exfilguard/wire/mysql/_scan.py",
    "exfilguard.wire.mysql._parameters": "exfilguard/wire/mysql/_parameters.pyx",
    "exfilguard.wire.sink": "exfilguard/wire/sink.py",
    "exfilguard.wire.postgres.backend": "exfilguard/wire/postgres/backend.py",
    "exfilguard.wire.postgres.frontend": "exfilguard/wire/postgres/frontend.py",
    "exfilguard.wire.mysql.backend": "exfilguard/wire/mysql/backend.py",
    "exfilguard.wire.mysql.frontend": "exfilguard/wire/mysql/frontend.py",
    "exfilguard.observe.mysql._hot": "exfilguard/observe/mysql/_hot.pyx",
    "exfilguard.observe.mysql._quick": "exfilguard/observe/mysql/_quick.pyx",
    "exfilguard.observe.mysql._rows": "exfilguard/observe/mysql/_rows.pyx",
    "exfilguard.sidecar._bell": "exfilguard/sidecar/_bell.pyx",
    "exfilguard.sidecar._frames": "exfilguard/sidecar/_frames.pyx",
    "exfilguard.runtime._clock": "exfilguard/runtime/_clock.pyx",
    "exfilguard.sidecar._segment": "exfilguard/sidecar/_segment.pyx",
    "exfilguard.sidecar._pump": "exfilguard/sidecar/_pump.pyx",
    "exfilguard.sidecar._records": "exfilguard/sidecar/_records.py",
    "exfilguard.observe._asking": "exfilguard/observe/_asking.pyx",
    "exfilguard.observe._copy_rows": "exfilguard/observe/_copy_rows.pyx",
    "exfilguard.observe._digests": "exfilguard/observe/_digests.pyx",
    "exfilguard.observe._hot": "exfilguard/observe/_hot.pyx",
    "exfilguard.observe._quick": "exfilguard/observe/_quick.pyx",
    "exfilguard.observe._rows": "exfilguard/observe/_rows.pyx",
    "exfilguard.observe._words": "exfilguard/observe/_words.pyx",
}

# Python on the way of every query: compiled with Python's own checks of bounds and signs.
CHECKED = [
    "exfilguard.events._encode",
    "exfilguard.observe.asked",
    "exfilguard.observe.contexts",
    "exfilguard.observe.copy_rows",
    "exfilguard.observe.estimate",
    "exfilguard.observe.mysql.answers",
    "exfilguard.observe.mysql.commands",
    "exfilguard.observe.mysql.patients",
    "exfilguard.observe.mysql.session",
    "exfilguard.observe.mysql.statement",
    "exfilguard.observe.identity",
    "exfilguard.observe.outlet",
    "exfilguard.observe.patients",
    "exfilguard.observe.pending",
    "exfilguard.observe.answers",
    "exfilguard.observe.columns",
    "exfilguard.observe.observer",
    "exfilguard.observe.requests",
    "exfilguard.observe.session",
    "exfilguard.observe.statement",
    "exfilguard.observe.tally",
    "exfilguard.observe.templates",
    "exfilguard.runtime.stats",
    "exfilguard.sidecar.budget",
    "exfilguard.sidecar.gate",
    "exfilguard.sidecar.journal",
    "exfilguard.sidecar.receiver",
    "exfilguard.sidecar.relay",
    "exfilguard.sidecar.sides",
    "exfilguard.sidecar.spool",
    "exfilguard.wire.mysql.messages",
    "exfilguard.wire.mysql.parameters",
    "exfilguard.wire.postgres.messages",
]


def extension(name: str, source: str) -> Extension:
    headers = [str(header) for header in Path(source).parent.glob("*.h")]
    return Extension(name, [source], depends=headers, optional=True, extra_compile_args=["-O3", "-g0"])


def source_of(name: str) -> str:
    path = Path(*name.split("."))
    return str(next(p for p in (path.with_suffix(".pyx"), path.with_suffix(".py")) if p.exists()))


# What this process may use, not what the machine has.
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

setup(
    options={"build_ext": {"parallel": WORKERS}},
    ext_modules=[
        *cythonize(
            [extension(name, source) for name, source in SOURCES.items()],
            language_level=3,
            compiler_directives={"boundscheck": False, "wraparound": False, "cdivision": True},
        ),
        *cythonize(
            [extension(name, source_of(name)) for name in CHECKED],
            language_level=3,
            compiler_directives={"annotation_typing": False},
        ),
    ],
)
