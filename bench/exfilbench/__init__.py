"""Exfilbench: a reproducible benchmark of detectors of bulk extraction from a health record system. See README.md."""
