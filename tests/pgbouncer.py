"""A real PgBouncer in front of a real Postgres: in transaction mode each transaction may run on another connection."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.services import free_port, wait_for

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
POOL = 2
"""Connections to Postgres, however many come to the pooler."""

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed: apt-get install pgbouncer")

_CONFIG = """
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {pool}
max_client_conn = 200
server_check_query =
query_wait_timeout = 20
server_login_retry = 1
log_connections = 0
log_disconnections = 0
{drop_privileges}
"""


@contextmanager
def pgbouncer(postgres_url: str, mode: str = "transaction") -> Iterator[str]:
    """The URL of the same database through a pooler of its own."""
    assert PROGRAM
    target = conninfo_to_dict(postgres_url)
    listen_port = free_port()
    with tempfile.TemporaryDirectory(prefix="tg-pgbouncer-") as directory:
        Path(directory).chmod(0o755)
        file = Path(directory) / "pgbouncer.ini"
        file.write_text(
            _CONFIG.format(
                host=target["host"],
                port=target.get("port") or 5432,
                listen_port=listen_port,
                mode=mode,
                pool=POOL,
                # It refuses to run as root; whoever runs Postgres may enter the directory of its socket.
                drop_privileges=f"user = {Path(str(target['host'])).owner()}" if os.geteuid() == 0 else "",
            )
        )
        process = subprocess.Popen([PROGRAM, "-q", file], stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: _accepts(listen_port))
            yield f"postgresql://postgres@127.0.0.1:{listen_port}/{target['dbname']}"
        finally:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
