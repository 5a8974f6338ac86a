"""The project's modules from their sources, where they have one, in place of what was compiled from them."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).parents[2]


def interpret() -> None:
    """From here on. To be called before the first of them is imported."""

    def hook(path: str) -> FileFinder:
        if not path.startswith(str(ROOT / "exfilguard")):
            raise ImportError
        return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES))

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
