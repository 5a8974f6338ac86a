"""Totals and policy become verdicts. Pure: time arrives as an argument."""
