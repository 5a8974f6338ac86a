"""Every kind of malformed, truncated, oversized, out-of-order or hostile message, from either side, in every phase, through a real relay.

The outcome of each is in docs/BAD_INPUT.md, which the test compares with what happens:

    pytest tests/badinput                    compare
    UPDATE_BAD_INPUT=1 pytest tests/badinput     write the page anew, for review
"""
