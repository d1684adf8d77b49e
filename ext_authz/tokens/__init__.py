"""API tokens that Tollgate itself issues: grants, their tokens, the keys that sign them, and the audit log.

Start in `service.py`: what may be done, and by whom.
"""
