"""Measurements, each a command of its own that anybody can repeat. `python -m bench.NAME`; QUICK=1 for a short run."""
