"""Lock-out hooks: one module per system that accounts live in, its SQL in files. Each hook is idempotent, verified,
reversible, bounded in time, and refuses accounts that must never be locked."""
