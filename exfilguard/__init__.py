"""ExfilGuard: a streaming guard against bulk extraction of health records. See docs/ARCHITECTURE.md."""

__version__ = "0.1.0"
