"""For callers in C."""

from ._clock cimport elapsed_s, now_ms
