"""The source of a compiled module, run as Python."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def interpreted(module: ModuleType) -> ModuleType:
    """A second, interpreted copy of a module whose one source is compiled where it can be."""
    path = Path(str(module.__file__)).with_name(module.__name__.rpartition(".")[2] + ".py")
    name = module.__name__ + "_interpreted"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made
