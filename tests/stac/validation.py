"""Whether documents are valid STAC, as `stac-valid` says, with schemas that are here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from stac_validator.stac_validator import StacValidate

_EXTENSIONS = Path(__file__).parent / "schemas"


@cache
def schemas() -> dict[str, str]:
    """URL to file."""
    core = files("pystac.validation").joinpath("jsonschemas")
    here = [*_EXTENSIONS.iterdir(), *Path(str(core)).rglob("*.json")]
    found = {json.loads(file.read_text())["$id"].rstrip("#"): str(file) for file in here}
    found["https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/common.json"] = next(
        file
        for url, file in found.items()
        if url.endswith("commonjson")  # as its $id has it
    )
    draft = files("jsonschema_specifications").joinpath("schemas/draft7/metaschema.json")
    return found | dict.fromkeys(
        ["http://json-schema.org/draft-07/schema", "http://json-schema.org/draft-07/schema#"], str(draft)
    )


def complaints(document: Mapping[str, Any]) -> list[Any]:
    """Empty: it is valid, with all of its extensions."""
    validator = StacValidate(schema_map=schemas())
    return [] if validator.validate_dict(dict(document)) else [*validator.message]


def complaints_of_page(page: Mapping[str, Any]) -> Iterator[Any]:
    """Of each item in it."""
    for feature in page["features"]:
        yield from complaints(feature)
