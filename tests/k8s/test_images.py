"""What the images would hold: built in plain folders by the Dockerfiles' steps, started as a cluster starts it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from tests.k8s.plain_root import BASE, Image, start, steps
from tests.k8s.programs import IMAGES, ROOT
from tests.k8s.running import check, infer, running_authorizer, running_triton
from tests.mesh.world.network import run, wait_until

DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    run("hadolint", dockerfile)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_a_base_image_without_digest_is_refused(dockerfile: Path) -> None:
    refuse = next(rest for step, rest in steps(dockerfile) if step == "RUN")
    run("env", f"PYTHON={BASE}", "sh", "-ec", refuse)
    with pytest.raises(AssertionError, match="exit 1\nPYTHON names no digest: write IMAGE@sha256:"):
        run("env", "PYTHON=docker.io/library/python:3.12-slim-bookworm", "sh", "-ec", refuse)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_its_versions_are_those_of_the_project(dockerfile: Path) -> None:
    makefile, devstack = (ROOT / "Makefile").read_text(), (ROOT / "devstack" / "pyproject.toml").read_text()
    text = dockerfile.read_text()
    assert re.findall(r"uv==(\S+)", text) == re.findall(r"(?m)^UV_VERSION := (\S+)", makefile)
    for wheel in re.findall(r"nvidia-pytriton==\S+", text):
        assert f'"{wheel}"' in devstack


def test_the_authorizer_migrates_starts_and_answers(
    tollgate: Image, database: str, redis_url: str, tmp_path: Path
) -> None:
    with running_authorizer(tollgate, database, redis_url, tmp_path) as ports:
        assert b"decision" in check(ports)


def test_the_sentiment_application_starts_in_its_image(sentiment: Image, database: str, tmp_path: Path) -> None:
    """As the example of a Deployment starts it: as nobody, with a file system that it may not write to."""
    log = tmp_path / "log"
    running = start(sentiment, [*sentiment.entrypoint, "export"], log, SENTIMENT_DATABASE_URL=database)
    assert running.wait(60) == 0, log.read_text()
    assert log.read_text().startswith("text,label,")


@pytest.mark.timeout(600)
def test_triton_starts_as_the_chart_starts_it_and_answers(triton: Image, tmp_path: Path) -> None:
    """With one watchdog, that of the chart, though the image brings another."""
    log = tmp_path / "triton.log"
    with running_triton(triton, log) as ports:
        assert "positive" in infer(ports).text
        assert httpx.post(f"http://127.0.0.1:{ports.http}/v2/repository/index").status_code == 403
        (watchdog,) = _processes("/watchdog/tollgate_models/serve.py", f"--http-port={ports.http}")
        (stub,) = [each for each in _processes("/models/sentiment/1/model.py") if each.ppid() == watchdog.ppid()]
        stub.kill()
        wait_until("it is loaded again", lambda: "watchdog: sentiment is ready again" in log.read_text())
        assert "positive" in infer(ports).text


def _processes(*words: str) -> list[psutil.Process]:
    """With these among their arguments."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if set(words) <= set(each.info["cmdline"] or ())]


@pytest.mark.timeout(600)
def test_triton_takes_models_from_a_volume_that_it_may_only_read(triton: Image, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    models = triton.root / "opt" / "triton" / "models"
    shutil.copytree(models / "sentiment", volume / "production" / "sentiment", symlinks=True)
    mounted = replace(triton, mounts={"opt/triton/models": volume / "production"})  # where /models links to
    options = ("--values", ROOT / "k8s" / "examples" / "values-models-on-a-volume.yaml")
    with running_triton(mounted, tmp_path / "triton.log", *options) as ports:
        assert "positive" in infer(ports).text
        assert httpx.get(f"http://127.0.0.1:{ports.http}/v2/models/cancer").status_code == 404
