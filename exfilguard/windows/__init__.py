"""Rolling record-count windows per account: the hot core, and its snapshot encoding. Standard library only.

The core is compiled C and there is no second implementation of it: totals and snapshots have one truth. Where it could not be
built, whoever wants to count is told so; what only names a `Totals` goes on.
"""

from typing import Any

from ..errors import ExfilGuardError
from .totals import SLICES, Totals

try:
    from ._core import COMPILED, WHY, FrameCounter, WindowStore, estimate
except ImportError:
    COMPILED = False
    WHY = {}

    def _refused(*_: Any, **__: Any) -> Any:
        raise ExfilGuardError(
            "the windows were not compiled: install a C compiler and Python's headers (Debian: apt install gcc libc6-dev "
            "python3-dev), then install exfilguard again"
        )

    FrameCounter = WindowStore = estimate = _refused  # type: ignore[misc,assignment]

__all__ = ["COMPILED", "SLICES", "WHY", "FrameCounter", "Totals", "WindowStore", "estimate"]
