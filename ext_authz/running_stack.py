"""The stack that `tollgate up` runs on this machine, as a source of settings for commands that ask or change it.

While it runs, `tollgate up` holds a lock in its state directory, has its settings in a file there, and a file of its
user names the directory. Only files are believed that nobody but this user can read or write.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from ext_authz.errors import ConfigError

LOCK = "lock"
SETTINGS = "settings.env"
"""Lines of NAME=VALUE, as in any env file."""


def running_stack() -> Mapping[str, str]:
    """Its settings by variable, such as TOLLGATE_REDIS_URL; empty if none runs.

    Raises:
        ConfigError: several run.
    """
    root = running_directory()
    if root is None:
        return {}
    _announce(root)
    return settings_of(root)


def running_directory() -> Path | None:
    """The state directory of the stack that runs, or of the one that TOLLGATE_STATE_DIR names, if it runs."""
    given = os.environ.get("TOLLGATE_STATE_DIR")
    running = [root for root in ([absolute(given)] if given else _listed()) if _is_running(root)]
    if len(running) > 1:
        names = " or ".join(map(str, sorted(running)))
        raise ConfigError(f"{len(running)} stacks run on this machine: choose one with TOLLGATE_STATE_DIR={names}")
    return running[0].absolute() if running else None


def absolute(path: str | Path) -> Path:
    """With ~ for a home directory; ~NAME of no user is a name like any other, as in a shell."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib raises then


def settings_of(root: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (root / SETTINGS).read_text().splitlines())


def stacks_directory() -> Path:
    """A file per stack of this user, with the path of its state directory."""
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()) / "tollgate" / "stacks"


def _listed() -> Iterator[Path]:
    try:
        files = [file for file in stacks_directory().glob("[!.]*") if _is_private(file)]
    except (OSError, RuntimeError):  # there is none, or no home directory
        return
    yield from (Path(file.read_text().strip()) for file in files)


def _is_running(root: Path) -> bool:
    """The kernel releases the lock however `tollgate up` ends."""
    if not _is_private(root / SETTINGS):
        return False
    try:
        with (root / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _is_private(file: Path) -> bool:
    """A file of this user that no other one can read or write; not a link."""
    try:
        found = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


@cache
def _announce(root: Path) -> None:
    """Once: who believes that another deployment is set up must see it."""
    sys.stderr.write(f"using the stack that tollgate up runs in {root}\n")
