"""`tollgate catalogue ...`: publishing over the REST interface and with one's own token; no store is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ext_authz.errors import ConfigError
from ext_authz.report import format_option, print_rows
from ext_authz.rest_client import REST, answer_of, rest_client, rest_options

if TYPE_CHECKING:
    import httpx

    from ext_authz.catalogue.publication import Publication

_ENTRIES = f"{REST}/catalogue/entries"
_COLUMNS = ("collection", "id", "name", "owner_name", "visibility", "stars", "changed_at")
_LONGEST = 65_536
"""Bytes of a file."""
_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_of = click.option("--of", metavar="ID", default="", help="Of an entry that you maintain and do not own.")


@click.group()
def catalogue() -> None:
    """Publish datasets, processors and models in the catalogue.

    FILE is YAML or JSON, with the fields of POST /catalogue/entries.
    """


@catalogue.command()
@_file
@_of
@rest_options
def publish(file: Path, of: str, url: str, token: str) -> None:
    """Publish a version, and print the id of its entry.

    To repeat it is safe. A version that is there with another content is not changed: republish it.
    """
    wanted = _read(file)
    with rest_client(url, token) as http:
        path = f"{_ENTRIES}/{wanted.collection}/{quote(of, safe='')}/versions" if of else _ENTRIES
        _print(json.loads(answer_of(http, path, "POST", wanted.model_dump(mode="json"))), wanted.version)


@catalogue.command()
@_file
@_of
@rest_options
def republish(file: Path, of: str, url: str, token: str) -> None:
    """Publish a version again.

    One that was withdrawn, or that says something else now. Runs keep the parameters that they had.
    """
    wanted = _read(file)
    with rest_client(url, token) as http:
        entry = f"{_ENTRIES}/{wanted.collection}/{quote(of or _id(http, wanted), safe='')}"
        path = f"{entry}/versions/{quote(wanted.version, safe='')}/republish"
        _print(json.loads(answer_of(http, path, "POST", wanted.model_dump(mode="json"))), wanted.version)


@catalogue.command()
@click.argument("collection", type=click.Choice(["ai-model", "dataset", "processor"]))
@click.argument("entry", metavar="ID")
@click.argument("version")
@rest_options
def unpublish(collection: str, entry: str, version: str, url: str, token: str) -> None:
    """Withdraw a version: nobody finds it any more."""
    with rest_client(url, token) as http:
        path = f"{_ENTRIES}/{collection}/{quote(entry, safe='')}/versions/{quote(version, safe='')}/unpublish"
        _print(json.loads(answer_of(http, path, "POST")), version)


@catalogue.command("list")
@rest_options
@format_option
def list_entries(url: str, token: str, form: str) -> None:
    """List what you may change, published or not."""
    with rest_client(url, token) as http:
        found = _mine(http)
    print_rows(_COLUMNS, [{name: each[name] for name in _COLUMNS} for each in found], form)


def _read(file: Path) -> Publication:
    """Raises ConfigError."""
    import yaml

    from ext_authz.catalogue.publication import read_publication
    from ext_authz.tokens.model import NotDone

    with file.open("rb") as opened:
        text = opened.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ConfigError(f"{file}: has more than {_LONGEST} bytes")
    try:
        return read_publication(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'problem', None) or 'is no YAML'}") from None
    except NotDone as wrong:
        raise ConfigError(f"{file}: {wrong.detail}") from None


def _id(http: httpx.Client, wanted: Publication) -> str:
    ids = [each["id"] for each in _mine(http) if (each["collection"], each["name"]) == (wanted.collection, wanted.name)]
    if len(ids) != 1:
        said = f"say which: --of {' or --of '.join(ids)}" if ids else "publish it first"
        raise ConfigError(f"there is not one entry {wanted.name} of yours: {said}")
    return str(ids[0])


def _mine(http: httpx.Client) -> list[dict[str, Any]]:
    found, cursor = [], ""
    while True:
        page = json.loads(answer_of(http, f"{_ENTRIES}?limit=200&cursor={quote(cursor, safe='')}"))
        found += page["entries"]
        if not (cursor := page["cursor"]):
            return found


def _print(entry: dict[str, Any], version: str) -> None:
    state = next(each for each in entry["versions"] if each["version"] == version)
    word = "published" if state["published"] else "withdrawn"
    click.echo(f"{entry['collection']}/{entry['id']}: {version} is {word}, {entry['visibility']}")
