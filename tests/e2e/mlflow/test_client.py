"""MLflow's own client, with a token: one user logs a run, another is refused on it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.mlflow.world import World

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]


def test_who_has_the_project_trains_registers_finds_and_loads(world: World, trained: dict[str, Any]) -> None:
    found = world.does("alice", "use", "forecast/first", "forecast.echo")["done"]
    assert found == {
        "accuracy": [0.9],
        "history": [0.9],
        "files": ["notes"],
        "notes": "what was found",
        "predicted": ["good"],
    }


def test_who_has_another_project_is_refused(world: World, trained: dict[str, Any]) -> None:
    denied, absent = "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST"
    run, model = trained["run"], f"models:/{trained['model']}"
    expected = {
        ("use", "forecast/first", "forecast.echo"): denied,
        ("create", "forecast/second"): denied,
        ("get", run): absent,
        ("log", run): absent,
        ("write", run): absent,
        ("read", f"runs:/{run}/notes"): absent,
        ("read", f"mlflow-artifacts:/{trained['experiment']}/{run}/artifacts/notes"): absent,
        ("read", "models:/forecast.echo/1"): denied,
        ("register", "forecast.echo", model): denied,
        ("register", "vision.stolen", model): absent,
    }
    found = world.steps("bob", *expected)
    assert {step: each.get("refused") for step, each in zip(expected, found, strict=True)} == expected


def test_who_may_read_changes_nothing(world: World, trained: dict[str, Any]) -> None:
    used, *refused = world.steps(
        "carol", ("use", "forecast/first", "forecast.echo"), ("log", trained["run"]), ("write", trained["run"])
    )
    assert used["done"]["predicted"] == ["good"]
    for each in refused:
        assert each["refused"] == "PERMISSION_DENIED"
        assert "this takes the role mlflow:forecast:update" in each["message"]


def test_searches_find_what_each_may_read(world: World, trained: dict[str, Any]) -> None:
    created, seen = world.steps("bob", ("create", "vision/only"), ("see",))
    assert created["done"]
    assert seen["done"]["experiments"] == ["vision/only"]
    ours = {"experiments": ["forecast/first"], "models": ["forecast.echo"], "versions": ["forecast.echo 1"]}
    both = {"forecast/first", "vision/only"}
    assert world.does("carol", "see")["done"] == ours
    assert {*_experiments(world, "dave")} == both
    assert {*_experiments(world, "audit")} >= both
    assert _experiments(world, "uma") == []


def _experiments(world: World, who: str) -> list[str]:
    answer = world.call(who, "POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1000})
    return [each["name"] for each in answer.json()["experiments"]]


def test_who_has_no_role_of_mlflow_does_not_get_past_the_door(world: World) -> None:
    answer = world.call("erin", "GET", "/api/3.0/mlflow/server-info")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert world.call("uma", "GET", "/api/3.0/mlflow/server-info").json()["store_type"] == "SqlStore"


def test_what_was_there_is_taken_into_a_project(world: World) -> None:
    """Its run keeps its id."""
    number = world.past("experiments/create", name="old")["experiment_id"]
    run = world.past("runs/create", experiment_id=number)["run"]["info"]["run_id"]
    world.past("registered-models/create", name="oldest")
    assert world.does("root", "get", run)["refused"] == "RESOURCE_DOES_NOT_EXIST"
    world.operator("adopt", "archive")
    got, found = world.steps("archivist", ("get", run), ("see",))
    assert got["done"] == run
    assert (found["done"]["experiments"], found["done"]["models"]) == (["archive/old"], ["archive.oldest"])
    assert world.does("carol", "get", run)["refused"] == "RESOURCE_DOES_NOT_EXIST"
