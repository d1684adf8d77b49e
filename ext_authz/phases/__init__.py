"""What the phases of `check.py` are made of. No I/O.

For others: `context` (what a check found, and a trace of it), `permission` (`may`: the right on a model),
`client_address`, `flood_guard.CODE`.
"""
