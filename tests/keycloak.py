"""A real Keycloak for tests, one per process of pytest, from the export of the development realm.

A test that uses the fixture `keycloak` is marked `keycloak`. All tests of a process share the realm: make users of your
own with `RealmAdmin.user` where a test changes one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from devstack.stack import keycloak as real
from devstack.stack.probe import answers
from ext_authz.errors import ConfigError
from tests.e2e.server.certificates import Authority
from tests.realm_admin import RealmAdmin
from tests.services import free_port

EXPORT = Path(__file__).parents[1] / "devstack/realm/realm-tollgate.json"
PASSWORD = "admin"
"""Of `admin` in the realm `master`."""
_START_SECONDS, _PAUSE = 240, 0.3
_PLAIN_PUSH = {"KC_SPI_SSF_TRANSMITTER__DEFAULT__ALLOW_INSECURE_PUSH_TARGETS": "true"}
"""Security events may be sent to a test, which has no certificate."""


class Secured(Struct, frozen=True):
    """A second port, where it asks for a client certificate. The issuer stays the plain one."""

    url: str
    authority: Authority
    """Signed its certificate, and signs those of its clients."""


class RunningKeycloak(Struct, frozen=True):
    """Where it is, and who may change the realm."""

    url: str
    admin: RealmAdmin
    home: Path
    """The installation, with `bin/kcadm.sh`."""
    secured: Secured | None = None
    """None: of the development realm."""

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/tollgate"


def why_no_keycloak() -> str:
    """Empty where one can be started."""
    try:
        _installed()
    except ConfigError as missing:
        return str(missing)
    return ""


def _installed() -> Path:
    named = os.environ.get("TOLLGATE_KEYCLOAK_HOME")
    return real.find_keycloak(Path(named) if named else None)


@contextmanager
def running_keycloak(directory: Path) -> Iterator[RunningKeycloak]:
    """In a directory that need not exist; skips the test where there is none, and says why."""
    if why := why_no_keycloak():
        pytest.skip(why)
    home = _installed()
    url, secure_port = f"http://127.0.0.1:{(port := free_port())}", free_port()
    real.prepare(home, directory, EXPORT)
    secured = Secured(f"https://127.0.0.1:{secure_port}", Authority(directory, "ca"))
    command = [*real.command(directory, port), *_tls(secure_port, secured.authority)]
    environ = {**os.environ, **_PLAIN_PUSH, **real.environment(PASSWORD, {})}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True)
        try:
            _wait_until_it_answers(process, url, directory / "log")
            real.allow_signals(url, "tollgate", PASSWORD)
            with RealmAdmin(url) as admin:
                yield RunningKeycloak(url, admin, home, secured)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _tls(port: int, authority: Authority) -> tuple[str, ...]:
    """Options of a second port, over TLS. Whether it asks for client certificates is decided when Keycloak is built."""
    certificate, key = authority.issue("keycloak")
    own = (f"--https-certificate-file={certificate}", f"--https-certificate-key-file={key}")
    return (f"--https-port={port}", *own, f"--truststore-paths={authority.certificate}")


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Asks seldom: it needs both processors to start."""
    deadline = time.monotonic() + _START_SECONDS
    while not answers(f"{url}/realms/tollgate/.well-known/openid-configuration"):
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, f"Keycloak did not answer within {_START_SECONDS} s"
        time.sleep(_PAUSE)
