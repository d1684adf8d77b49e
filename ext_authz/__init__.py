"""Tollgate: external authorization for model meshes. Start reading at `check.py`."""

__version__ = "0.1.0"
