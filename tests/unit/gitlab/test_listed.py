"""What is made of projects that are listed for the catalogue, and of what their authors write into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from ext_authz.errors import Unavailable
from ext_authz.gitlab import listed as module
from ext_authz.gitlab.api import GitlabApi
from ext_authz.gitlab.lfs import File
from ext_authz.gitlab.listed import Content, Found, Listed, ListedProjects, is_name, readable
from tests.fakes import FakeClock

COMMIT = "a" * 40
SUM = hashlib.sha256(b"weights").hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SUM}\nsize 7\n"
PROJECT: dict[str, Any] = {
    "id": 20,
    "path_with_namespace": "team/forecast",
    "name": "Forecast",
    "description": "What comes",
    "visibility": "internal",
    "topics": ["sharinghub:aimodel", "weather"],
    "default_branch": "main",
    "star_count": 3,
    "last_activity_at": "2026-11-20T13:00:00.000Z",
    "repository_access_level": "enabled",
}
README = "---\ntitle: Forecasts\nlicense: Apache-2.0\ntags: [weather]\n---\n# Heading\nWhat it does\n"


class Api:
    """Of one project, or of those that a test puts in."""

    def __init__(self) -> None:
        self.projects: list[Any] = [PROJECT]
        self.files: dict[str, str | bytes] = {"README.md": README, ".gitattributes": "*.onnx filter=lfs -text\n"}
        self.files |= {"model.onnx": POINTER, "train.py": "print()"}
        self.commit = COMMIT
        self.asked: list[str] = []
        self.broken = ""

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v4")
        self.asked.append(path)
        if self.broken and self.broken in path:
            return httpx.Response(500)
        if path == "/projects":
            return self._page(request, [*self._with(request.url.params["topic"])])
        below = path.removeprefix("/projects/20/")
        if below == "members/all":
            return _streamed(json.dumps([{"id": 42, "access_level": 30}]).encode())
        if below == "repository/branches/main":
            return _streamed(json.dumps({"name": "main", "commit": {"id": self.commit}}).encode())
        if below == "repository/tree":
            found = [{"path": name, "type": "blob"} for name in self.files] + [{"path": "data", "type": "tree"}]
            return self._page(request, found)
        return self._raw(request)

    def _with(self, topic: str) -> list[Any]:
        return [
            each for each in self.projects if not isinstance(each, dict) or topic in (each.get("topics") or [topic])
        ]

    def _page(self, request: httpx.Request, found: list[Any]) -> httpx.Response:
        size, page = int(request.url.params["per_page"]), int(request.url.params["page"])
        return _streamed(json.dumps(found[size * (page - 1) : size * page]).encode())

    def _raw(self, request: httpx.Request) -> httpx.Response:
        assert request.url.params["ref"] == self.commit
        raw = request.url.raw_path.decode().partition("?")[0]
        name = unquote(raw.removeprefix("/api/v4/projects/20/repository/files/").removesuffix("/raw"))
        content = self.files.get(name)
        if content is None:
            return httpx.Response(404)
        return _streamed(content.encode() if isinstance(content, str) else content)


def _streamed(content: bytes) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield content

    return httpx.Response(200, content=body())


async def listed(api: Api, known: str | None = None, below: tuple[str, ...] = ("team",)) -> list[Listed]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(api.answer)) as http:
        projects = ListedProjects(GitlabApi("http://gitlab", "glpat", http, FakeClock()), below)
        return [await projects.listed(each, known) for each in await projects.all()]


async def one(api: Api) -> Content:
    [found] = await listed(api)
    assert found.content is not None
    return found.content


async def test_a_project() -> None:
    [found] = await listed(Api())
    assert found.found.collections == ("ai-model",)
    assert found.found.last_activity_at == datetime(2026, 11, 20, 13, tzinfo=UTC)
    assert (found.project.visibility, found.project.members, found.project.number) == ("internal", {"42": 30}, 20)
    assert found.commit == COMMIT
    assert found.content is not None
    card = found.content.card
    assert (card.title, card.license, card.keywords) == ("Forecasts", "Apache-2.0", ("weather",))
    assert found.content.files == (File("model.onnx", SUM, 7),)


async def test_the_content_is_read_once_per_commit() -> None:
    api = Api()
    [found] = await listed(api, COMMIT)
    assert found.content is None
    assert not [each for each in api.asked if "files" in each or "tree" in each]
    api.commit = "b" * 40
    [found] = await listed(api, COMMIT)
    assert found.content is not None


@pytest.mark.parametrize("below", [("tea",), ("Team",), ("team/fore",), ("team/forecast/x",), ("orecast",), ()])
async def test_what_is_not_below_is_left_out(below: tuple[str, ...]) -> None:
    assert await listed(Api(), below=below) == []
    assert len(await listed(Api(), below=("team/forecast",))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"topics": ["sharinghub:ai"]},
        {"topics": None},
        {"path_with_namespace": "team/../x"},
        {"path_with_namespace": "team/<script>"},
        {"path_with_namespace": "team/a\n"},
        {"path_with_namespace": f"team/{'a' * 300}"},
        {"visibility": "secret"},
        {"id": 0},
        {"id": "20"},
        {"name": None},
        {"last_activity_at": "yesterday"},
        {"last_activity_at": None},
    ],
)
async def test_a_project_that_cannot_be_shown_hides_no_other(change: Mapping[str, object]) -> None:
    api = Api()
    api.projects = [{**PROJECT, "id": 19, **change}, [], None, PROJECT]
    assert [each.found.id for each in await listed(api)] == [20]


async def test_a_repository_that_only_members_reach() -> None:
    api = Api()
    api.projects = [{**PROJECT, "visibility": "public", "repository_access_level": "private"}]
    [found] = await listed(api)
    assert found.project.visibility == "private"


async def test_a_project_without_a_commit() -> None:
    api = Api()
    api.projects = [{**PROJECT, "default_branch": None}]
    [found] = await listed(api)
    assert (found.commit, found.content) == ("", Content())
    api.projects, api.commit = [PROJECT], "../../evil"
    [found] = await listed(api)
    assert (found.commit, found.content) == ("", Content())


_MERGED = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "front",
    [
        _MERGED,
        "a: &a [x]\ntags: [*a]\n",
        "x: " + "[" * 20_000 + "\n",
        "title: !!python/object/apply:os.system [true]\n",
        "day: 2026-99-99\n",
        "number: " + "9" * 5000 + "\n",
        "tags: {a: b}\n",
        "title: [1]\n",
        "- a\n- b\n",
        "\tx\n",
    ],
    ids=range(10),
)
async def test_a_front_matter_that_is_none_leaves_the_rest(front: str, caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    api.files["README.md"] = f"---\n{front}---\n# Heading\nText\n"
    content = await one(api)
    assert (content.card.title, content.card.description, content.card.keywords) == ("Heading", "Text", ())
    assert "front matter" in caplog.text
    assert len(content.files) == 1


@pytest.mark.parametrize("readme", [b"x" * 65_537, b"\xff\xfe", b""])
async def test_a_readme_that_is_none(readme: bytes) -> None:
    api = Api()
    api.files["README.md"] = readme
    assert (await one(api)).card.title == ""


async def test_texts_are_cleaned() -> None:
    api = Api()
    api.files["README.md"] = "# A\x00\x1b[31m\u202eB\nline\r\n\x00" + "x" * 20_000
    card = (await one(api)).card
    assert card.title == "A[31mB"
    assert "\x00" not in card.description
    assert len(card.description) == 16_384
    assert readable("a\tb\nc\u2066") == "a\tb\nc"


@pytest.mark.parametrize(
    "pointer",
    [
        "not a pointer",
        POINTER + "\n",
        POINTER.replace("size 7", "size -7"),
        POINTER.replace("size 7", "size " + "9" * 30),
        POINTER.replace(SUM, SUM.upper()),
        POINTER.replace(SUM, SUM[:-1]),
        POINTER.replace("sha256", "md5"),
        POINTER.replace("\n", "\r\n"),
        "x" * 1025,
        "",
    ],
    ids=range(10),
)
async def test_a_file_that_is_no_pointer_is_no_asset(pointer: str) -> None:
    api = Api()
    api.files["model.onnx"] = pointer
    assert (await one(api)).files == ()


async def test_a_pointer_with_an_extension() -> None:
    api = Api()
    api.files["model.onnx"] = POINTER.replace("oid", "ext-0-foo sha256:ab\noid", 1)
    assert (await one(api)).files == (File("model.onnx", SUM, 7),)


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ("*.onnx filter=lfs diff=lfs merge=lfs -text", {"model.onnx", "data/a.onnx"}),
        ("data/** filter=lfs", {"data/a.onnx"}),
        ("/model.onnx filter=lfs", {"model.onnx"}),
        ("*.onnx -text\n# *.onnx filter=lfs", set()),
        ("", set()),
    ],
)
async def test_which_files_are_looked_at(attributes: str, found: set[str]) -> None:
    api = Api()
    api.files |= {".gitattributes": attributes, "data/a.onnx": POINTER}
    assert {each.path for each in (await one(api)).files} == found


async def test_more_files_than_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 2)
    api = Api()
    api.files |= {f"{number}.onnx": POINTER for number in range(5)}
    assert len((await one(api)).files) == 2
    assert sum("onnx" in each for each in api.asked) == 2


async def test_more_projects_than_are_listed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    api = Api()
    api.projects = [{**PROJECT, "id": number} for number in range(1, 131)]
    async with httpx.AsyncClient(transport=httpx.MockTransport(api.answer)) as http:
        found = await ListedProjects(GitlabApi("http://gitlab", "glpat", http, FakeClock()), ["team"]).all()
    assert [each.id for each in found] == [1, 2]
    assert "more projects than are listed" in caplog.text


@pytest.mark.parametrize("name", ["../x", "a/../b", "/x", "a//b", "a\nb", "a\u202eb", "x" * 256, "", "."])
async def test_names_that_no_address_has(name: str) -> None:
    assert not is_name(name)
    assert is_name("data/Weights 1.onnx")
    api = Api()
    api.files[name] = POINTER
    assert [each.path for each in (await one(api)).files] == ["model.onnx"]


@pytest.mark.parametrize("broken", ["members", "branches", "tree", "README", "projects"])
async def test_what_cannot_be_asked_is_said(broken: str) -> None:
    api = Api()
    api.broken = broken
    with pytest.raises(Unavailable, match="status 500"):
        await listed(api)


def test_several_topics_are_several_collections() -> None:
    found = Found(1, "team/a", "a", "public", datetime.now(UTC), ["sharinghub:dataset", "sharinghub:processor"])
    assert found.collections == ("dataset", "processor")
