"""A real Keycloak in the place of the development realm: the same export, a database in memory, one process.

Every start is in a directory of its own that shares the programs of the installation, so that several can run at once
and none writes into it. `make keycloak` installs one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import LOOPBACK

VERSION = "26.7.4"
BUILD = ("--db=dev-mem", "--features=ssf", "--https-client-auth=request")
"""Options that Keycloak is built with: another set makes the next start build it again, which takes half a minute.

The last one asks callers for a certificate, if it gets a port with TLS."""
INSTALLED = Path(__file__).resolve().parents[2] / ".tools" / f"keycloak-{VERSION}"
"""Where `make keycloak` leaves it, in a checkout."""
ADMINISTRATOR = "admin"
"""Of the realm `master`."""

_SHARED = ("conf", "lib", "providers", "themes")
_SMALL = {"JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m", "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1"}
"""For a few users: memory, and a compiler that starts fast."""
_SSF_SCOPES = ("ssf.manage", "ssf.read")
_SSF_CLIENT = "tollgate-console"


def find_keycloak(named: Path | None) -> Path:
    """The installation to start.

    Raises:
        ConfigError: there is none, or no Java to run it.
    """
    home = named or INSTALLED
    if not (home / "bin" / "kc.sh").is_file():
        how = "`make keycloak` in a checkout fetches one, or name an unpacked distribution in TOLLGATE_KEYCLOAK_HOME"
        raise ConfigError(f"no Keycloak in {home}: {how}")
    java = os.environ.get("JAVA_HOME")
    if not (shutil.which("java", path=f"{java}/bin") if java else shutil.which("java")):
        raise ConfigError(
            "Keycloak needs Java 17 or newer, and no program `java` is here: install it, or set JAVA_HOME"
        )
    return home


def prepare(home: Path, directory: Path, realm: Path) -> None:
    """Lay out `directory` for one start that imports `realm`."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "bin").mkdir(parents=True)
    (directory / "data" / "import").mkdir(parents=True)
    # A copy: the script takes its own place, links followed, for the installation.
    shutil.copy(home / "bin" / "kc.sh", directory / "bin")
    (directory / "bin" / "kc.sh").chmod(0o755)  # Python's zipfile forgets modes
    for name in _SHARED:
        (directory / name).symlink_to(home.resolve() / name)
    shutil.copy(realm, directory / "data" / "import" / f"{realm.stem}.json")


def command(directory: Path, port: int) -> Sequence[str | Path]:
    """It listens on loopback only, and its issuer is there too."""
    where = (f"--hostname=http://{LOOPBACK}:{port}", f"--http-host={LOOPBACK}", f"--http-port={port}")
    always = ("--cache=local", "--http-enabled=true", "--import-realm")
    return (directory / "bin" / "kc.sh", "start", *BUILD, *always, *where)


def environment(password: str, addresses: Mapping[str, str]) -> dict[str, str]:
    """Beside PATH and the like. `addresses`: what the export's placeholders stand for."""
    java = {"JAVA_HOME": os.environ["JAVA_HOME"]} if os.environ.get("JAVA_HOME") else {}
    administrator = {"KC_BOOTSTRAP_ADMIN_USERNAME": ADMINISTRATOR, "KC_BOOTSTRAP_ADMIN_PASSWORD": password}
    return {**java, **_SMALL, **administrator, **addresses}


def allow_signals(url: str, realm: str, password: str) -> None:
    """Let the console's client ask for the scopes of shared signals: an import cannot, as Keycloak makes them after it.

    Raises:
        ConfigError: the administration refused it.
    """
    try:
        _allow_signals(url, realm, password)
    except httpx.HTTPError as error:
        raise ConfigError(f"Keycloak did not let the administrator set the realm {realm!r} up: {error}") from None


def _allow_signals(url: str, realm: str, password: str) -> None:
    with httpx.Client(base_url=url, timeout=20) as http:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMINISTRATOR, "password": password}
        answer = http.post("/realms/master/protocol/openid-connect/token", data=form).raise_for_status()
        http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        here = f"/admin/realms/{realm}"
        clients = http.get(f"{here}/clients", params={"clientId": _SSF_CLIENT}).raise_for_status().json()
        scopes = http.get(f"{here}/client-scopes").raise_for_status().json()
        for client in clients:
            for scope in scopes:
                if scope["name"] in _SSF_SCOPES:
                    path = f"{here}/clients/{client['id']}/optional-client-scopes/{scope['id']}"
                    http.put(path).raise_for_status()
