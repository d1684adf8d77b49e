"""The steps of a Dockerfile in plain folders, on a machine without a container engine.

A stage is a folder. The base image is this machine's /usr, read only, with a Python at /usr/local; so what a base image
would lack is not noticed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.mesh.world.network import run

BASE = f"example/python@sha256:{'0' * 64}"
_MERGED = ("bin", "sbin", "lib", "lib64")
_EMPTY = ("usr", "proc", "dev", "tmp", "etc", "root", "cache")


@dataclass
class Image:
    root: Path
    python: Path
    cache: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    directory: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    network: str = ""
    """A network namespace; none: this machine's."""
    mounts: dict[str, Path] = field(default_factory=dict)
    """Volumes, by their place below the root; read only."""

    def wrapped(self, command: list[str], *, user: str = "0:0", read_only: bool = False) -> list[str]:
        """The command as it runs in the folder, alone with its mounts."""
        uid, gid = user.split(":")
        mounts = [
            f"mount --bind {self.root} {self.root}",
            *(f"mount --rbind /{name} {self.root}/{name}" for name in ("proc", "dev", "tmp")),
            f"mount --bind -o ro /usr {self.root}/usr",
            f"mount --bind -o ro {self.python} {self.root}/usr/local",
            f"mount --bind {self.cache} {self.root}/cache",
            *(f"mount --bind -o ro {volume} {self.root / place}" for place, volume in self.mounts.items()),
            *([f"mount -o remount,bind,ro {self.root}"] if read_only else []),
        ]
        inside = f'cd {self.directory}; exec "$@"'
        enter = f"exec chroot --userspec={uid}:{gid} {self.root} /bin/sh -c '{inside}' sh \"$@\""
        network = ["ip", "netns", "exec", self.network] if self.network else []
        return [*network, "unshare", "--mount", "sh", "-ec", "; ".join([*mounts, enter]), "sh", *command]

    def variables(self) -> dict[str, str]:
        # The Python of this machine looks for its library where it was installed.
        return {"HOME": "/tmp", "LD_LIBRARY_PATH": "/usr/local/lib", "UV_CACHE_DIR": "/cache", **self.environment}


def build(dockerfile: Path, context: Path, directory: Path, python: Path, cache: Path) -> Image:
    stages: dict[str, Image] = {}
    for step, rest in steps(dockerfile):
        if step == "FROM":
            _, _, name = rest.partition(" AS ")
            image = stages[name or "final"] = Image(_base(directory / (name or "final")), python, cache)
        elif step == "COPY":
            _copy(rest, image, stages, context)
        elif step == "RUN":
            _run(image, rest)
        elif step != "ARG" or stages:
            _describe(image, step, rest)
    return stages["final"]


def _describe(image: Image, step: str, rest: str) -> None:
    match step:
        case "ARG":
            image.environment[rest] = BASE
        case "ENV":
            image.environment |= dict(re.findall(r"(\w+)=(\S+)", rest))
        case "WORKDIR":
            image.directory = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True)
        case "USER":
            image.user = rest
        case "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        case "CMD":
            image.command = json.loads(rest)
        case _:
            raise AssertionError(f"{step} is not known here")


def steps(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", dockerfile.read_text()))
    return [(step, rest) for step, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def _base(root: Path) -> Path:
    for name in _EMPTY:
        (root / name).mkdir(parents=True)
    for name in _MERGED:
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "nsswitch.conf", "resolv.conf", "hosts", "ld.so.cache"):
        shutil.copy(Path("/etc", name), root / "etc" / name)
    shutil.copytree("/etc/ssl", root / "etc" / "ssl", symlinks=False, ignore_dangling_symlinks=True)
    return root


def _copy(rest: str, image: Image, stages: dict[str, Image], context: Path) -> None:
    *sources, target = rest.split()
    if sources[0].startswith("--from="):
        context = stages[sources.pop(0).removeprefix("--from=")].root
    to = image.root / image.directory.lstrip("/") / target.lstrip("/" if target.startswith("/") else "")
    for source in sources:
        path = context / source.lstrip("/")
        place = to / path.name if target.endswith("/") else to
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            ignored = shutil.ignore_patterns(".venvs", "__pycache__")
            shutil.copytree(path, place, symlinks=True, ignore=ignored if "--from" not in rest else None)
        else:
            shutil.copy(path, place)


def _run(image: Image, command: str) -> None:
    variables = [f"{name}={value}" for name, value in image.variables().items()]
    certificates = [f"{name}={os.environ[name]}" for name in ("PIP_CERT", "SSL_CERT_FILE") if name in os.environ]
    run(*image.wrapped(["env", "-i", *variables, *certificates, "sh", "-ec", command]))


def start(image: Image, command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """As its user, with a read-only root."""
    variables = [f"{name}={value}" for name, value in (image.variables() | environment).items()]
    whole = image.wrapped(["env", "-i", *variables, *command], user=image.user, read_only=True)
    with log.open("ab") as output:
        return subprocess.Popen(whole, stdout=output, stderr=output)
