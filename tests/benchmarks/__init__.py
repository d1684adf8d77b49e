"""Measurements, never timed tests. `make bench` runs `__main__.py` and prints a table."""
