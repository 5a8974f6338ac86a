"""Synthetic patients, a normal clinic, an attacker: what the demo, the drill, the tests and the benches run on."""
