"""Tollgate: external authorization for model meshes. Start reading at `check.py`; docs/reading-guide.md has the way.

Public are the command `tollgate`, its settings (`tollgate settings`), the policy language, the HTTP and gRPC
answers, the metrics, and the tables that `tollgate migrate` makes. Modules are not: they change without notice.
"""

__version__ = "0.1.0"
