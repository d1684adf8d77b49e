"""The status page of `tollgate up --observability`: `python -m devstack.monitoring`."""
