"""`make bundle`: one archive from which Tollgate installs, and `tollgate demo` runs, without a network (ADR 63)."""
