"""The pages of whoever publishes: a form, versions that go and come back, stars, and hostile texts."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from markupsafe import escape

from ext_authz.catalogue.commands import catalogue
from tests.e2e.console.world import Console, Person

Visit = Callable[..., Person]
SIZE = '[{"name": "size", "type": "integer", "default": 256}]'


def fields(**more: str) -> dict[str, str]:
    name = f"tiles-{uuid.uuid4().hex[:8]}"
    return {"collection": "processor", "name": name, "version": "1.0", "accept_terms": "1", "parameters": SIZE} | more


def published(person: Person, **more: str) -> str:
    answer = person.post("/catalogue/publish", **fields(**more))
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].removeprefix("/tollgate").removesuffix("/versions")


def test_a_version_is_published_withdrawn_and_published_again(visit: Visit) -> None:
    erin, frank = visit("erin"), visit("frank")
    tiles = published(erin, title="Cuts tiles", visibility="public", href="https://data.example/tiles.whl")
    page = frank.get(tiles).text
    assert all(each in page for each in ("Cuts tiles", "by default 256", 'href="https://data.example/tiles.whl"'))
    assert "Cuts tiles" in frank.get("/catalogue?kind=processor").text
    assert "Cuts tiles" not in frank.get("/catalogue?kind=dataset").text
    assert "Withdraw 1.0" in erin.get(f"{tiles}/versions").text
    assert erin.post(f"{tiles}/unpublish", version="1.0", seen="99").status_code == 409
    assert erin.post(f"{tiles}/unpublish", version="1.0").status_code == 303
    assert frank.get(tiles).status_code == 404
    assert erin.post(f"{tiles}/republish", version="1.0", accept_terms="0").status_code == 400
    assert erin.post(f"{tiles}/republish", version="1.0", accept_terms="1").status_code == 303
    assert frank.get(tiles).status_code == 200
    assert erin.post(f"{tiles}/visibility", visibility="private").status_code == 303
    assert frank.get(tiles).status_code == 404
    assert "Make it public" in erin.get(f"{tiles}/versions").text


def test_a_star_is_given_and_taken_back(visit: Visit) -> None:
    erin, frank = visit("erin"), visit("frank")
    tiles = published(erin, visibility="public")
    assert frank.post(f"{tiles}/star", given="yes").status_code == 303
    assert "Take your star back" in frank.get(tiles).text
    assert "Give it a star" in erin.get(tiles).text
    frank.post(f"{tiles}/star", given="no")
    assert "Give it a star" in frank.get(tiles).text


def test_a_form_that_is_wrong_comes_back_as_it_was(visit: Visit) -> None:
    erin = visit("erin")
    for said, wrong in {
        "write a list in JSON": {"parameters": "{size"},
        "beginning with a-z": {"name": "Tiles"},
        "accept the terms": {"accept_terms": ""},
        "only a processor": {"collection": "dataset"},
        "write a URL": {"href": "javascript:alert(1)"},
    }.items():
        sent = fields(title="What I wrote", **wrong) if "name" in wrong else fields(title="What I wrote") | wrong
        answer = erin.post("/catalogue/publish", **sent)
        assert (answer.status_code, said in answer.text) == (400, True), answer.text
        assert 'value="What I wrote"' in answer.text
    assert erin.get("/catalogue/dataset/a%00b/versions").status_code == 404
    tiles = published(erin)
    assert erin.post(f"{tiles}/unpublish", version="a\0b").status_code == 404


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 31337 * 31337 }}"])
def test_what_is_published_is_text(visit: Visit, text: str) -> None:
    erin, frank, shown = visit("erin"), visit("frank"), str(escape(text))
    tiles = published(erin, title=text, description=text, keywords=text, visibility="public")
    for page in (frank.get(tiles).text, frank.get("/catalogue?kind=processor&sort=-datetime").text):
        assert shown in page
        assert not [bad for bad in ("<script>alert", "<img src=x", "982007569") if bad in page]


def test_a_program_publishes_with_a_token_for_that(console: Console, visit: Visit, tmp_path: Path) -> None:
    frank, name = visit("frank"), f"reviews-{uuid.uuid4().hex[:8]}"
    token = frank.token_of(frank.make(f"publishes-{name}", scopes=["tollgate:catalogue"]))
    file = tmp_path / "reviews.yaml"

    def run(*arguments: str, token: str = token) -> Result:
        return CliRunner().invoke(catalogue, [*arguments, "--url", console.url, "--jwt", "-"], input=token)

    def publish(title: str, command: str = "publish", **more: str) -> Result:
        about = {"collection": "dataset", "name": name, "version": "1.0", "accept_terms": "1", "title": title}
        file.write_text(yaml.safe_dump(about | more))
        return run(command, str(file))

    done = publish("First")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert done.stdout.startswith(f"dataset/{name}-")
    assert done.stdout.endswith(": 1.0 is published, private\n")
    item = done.stdout.partition(":")[0].partition("/")[2]
    assert publish("First").stdout == done.stdout
    assert "republish it" in str(publish("Second").exception)
    assert publish("Second", "republish").exit_code == 0
    assert "Second" in frank.get(f"/catalogue/dataset/{item}").text
    assert run("unpublish", "dataset", item, "1.0").stdout.endswith("1.0 is withdrawn, private\n")
    assert item in run("list", "--format", "csv").stdout
    for said, answer in {
        "there is no such thing": run("unpublish", "dataset", f"{item}x", "1.0"),
        "accept the terms": publish("First", accept_terms="0"),
        "publish it first": publish("First", "republish", name="never"),
        "version: String should match": publish("First", version="../x"),
    }.items():
        assert said in str(answer.exception), said
    other = frank.token_of(frank.make(f"other-{name}", scopes=["tollgate:billing"]))
    assert "it takes the scope tollgate:catalogue" in str(run("list", token=other).exception)
