"""Fuzzing of the wire parsers and observers: whatever arrives gives events or a ProtocolError; nothing else, no hang, no growth.

make fuzz                          mutated transcripts, resumable; counts inputs, failures, memory
make fuzz-atheris                  coverage-guided (atheris, its own extra)
python -m tests.fuzz.run --replay N    one input again, by its number
"""
