"""`tollgate console`: the pages where people manage tokens, and the process that serves them with all interfaces.

Start in `process.py`, which builds it.
"""
