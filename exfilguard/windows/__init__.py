"""Rolling record-count windows per account: the hot core, and its snapshot encoding. Standard library only."""

from ._core import COMPILED, Totals, WindowStore

__all__ = ["COMPILED", "Totals", "WindowStore"]
