"""The same job in other frameworks, as their documentation shows it, for bench.stream.

Each reads the frames of one partition, and keeps per account the rows of five windows (10 s, 1 min, 5 min, 1 h, 24 h), each
moving in eighths of itself, then compares them with a limit. That is less than the detector does (seven windows in steps of
1/32, four units, distinct patients, sums over sources, shapes and tenants, snapshots with exact offsets): where a peer is
slower, it is in spite of that. Each prints `EVENTS SECONDS` again and again.
"""
