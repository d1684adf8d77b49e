"""What the API server and Istio's webhook say to the rendered objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.mesh.world.api_server import ROOT
from tests.mesh.world.world import World


def test_every_rendered_object_is_admitted(world: World) -> None:
    for path in world.release.rendered.glob("*.yaml"):
        admitted = json.loads(world.control.kubectl("get", "--filename", path, "--output", "json"))
        assert admitted["spec"] == yaml.safe_load(path.read_text())["spec"], path.name


def test_every_object_of_the_repository_is_admitted(world: World) -> None:
    """`istio/` is what is rendered for the demo's policy; a folder `istiod` is for Istio's chart."""
    for path in sorted(path for path in (ROOT / "istio").rglob("*.yaml") if path.parent.name != "istiod"):
        assert "(server dry run)" in world.control.kubectl("apply", "--dry-run=server", "--filename", path)


def test_what_istio_refuses_is_not_admitted(world: World, tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    (path,) = world.release.rendered.glob("*-virtualservice-*.yaml")
    wrong = yaml.safe_load(path.read_text())
    routed = next(each for each in wrong["spec"]["http"] if "route" in each)
    routed["route"][0]["destination"]["host"] = ""
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(AssertionError, match=r"admission webhook .* denied the request"):
        world.control.kubectl("apply", "--dry-run=server", "-f", tmp_path / "wrong.yaml")


def test_istioctl_finds_nothing_else_than_that_envoy_filters_depend_on_envoy(world: World) -> None:
    """IST0133 is about every EnvoyFilter, whatever is in it. Without them Envoy would send neither raw headers nor the
    model of a gRPC message with a check, and would route by a header that the caller sent."""
    found = {(one["code"], one["origin"].split()[0], one["message"]) for one in world.control.analyze()}
    assert {one for one in found if one[:2] != ("IST0133", "EnvoyFilter")} == set()
