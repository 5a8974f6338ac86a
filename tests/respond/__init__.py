"""Hooks against real servers: see labs.py."""
