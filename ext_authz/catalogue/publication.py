"""What somebody publishes: the document that REST, the console and `tollgate catalogue publish` take."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ext_authz.catalogue.entry import DATASETS, MODELS, PROCESSORS
from ext_authz.catalogue.parameters import MOST as MOST_PARAMETERS
from ext_authz.catalogue.parameters import Parameter
from ext_authz.catalogue.texts import Text, Url
from ext_authz.policy.names import MODEL
from ext_authz.policy.names import VERSION as MODEL_VERSION
from ext_authz.tokens.model import NotDone, Why

MOST_BYTES = 32_768
"""Of a document as JSON."""
VERSION = r"[0-9A-Za-z][0-9A-Za-z._+-]{0,63}"
Collection = Literal["ai-model", "dataset", "processor"]
"""As in the STAC API."""
Visibility = Literal["private", "public"]
_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_ABOUT_ENTRY = {"collection", "name", "version", "visibility", "accept_terms"}
"""The other fields are kept of each version."""


class Asset(BaseModel):
    """Something that can be fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    href: Url
    type: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+; =-]+$", max_length=127)]
    """Media type."""
    title: Text | None = None
    roles: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9:_-]{0,63}$")]], Field(max_length=10)
    ] = ["data"]


class Publication(BaseModel):
    """A version of a dataset, of a processor, or of a model that is served."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    collection: Collection
    name: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")]
    """Of one owner's datasets, and of their processors, no two have the same. Of a model: as it is called."""
    version: Annotated[str, StringConstraints(pattern=f"^{VERSION}$")]
    """Of a model: the number by which it is called."""
    visibility: Visibility | None = None
    """Null: as it is, and at first private."""
    accept_terms: Annotated[str, StringConstraints(max_length=255)]
    """The terms of publishing that you accept: those that `GET /catalogue/terms` names."""
    title: Text | None = None
    description: Annotated[
        str, StringConstraints(max_length=16_384, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$")
    ] = ""
    """CommonMark."""
    license: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+() -]{0,64}$")] = ""
    """An SPDX expression, or `other`."""
    keywords: Annotated[list[Text], Field(max_length=50)] = []
    sources: Annotated[list[Url], Field(max_length=50)] = []
    """What it was made from."""
    assets: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")], Asset], Field(max_length=20)
    ] = {}
    parameters: Annotated[list[Parameter], Field(max_length=MOST_PARAMETERS)] = []
    """Of a processor: what a run of it gets."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        names = [each.name for each in self.parameters]
        if names and self.collection != PROCESSORS:
            raise ValueError("parameters: only a processor has some")
        if len(set(names)) != len(names):
            raise ValueError("parameters: two of them have the same name")
        if self.collection == MODELS:
            _ensure_model(self.name, self.version)
        elif not re.fullmatch(_NAME, self.name, re.ASCII):
            raise ValueError("name: write 1 to 64 of a-z, 0-9, _, . and -, beginning with a-z or 0-9")
        if len(json.dumps(self.content())) > MOST_BYTES:
            raise ValueError(f"the document has more than {MOST_BYTES} bytes")
        return self

    def content(self) -> dict[str, Any]:
        """What is kept of the version."""
        return self.model_dump(mode="json", exclude=_ABOUT_ENTRY, exclude_defaults=True)


def _ensure_model(name: str, version: str) -> None:
    if not re.fullmatch(MODEL, name, re.ASCII):
        raise ValueError("name: write the name of the model as it is called")
    if not re.fullmatch(MODEL_VERSION, version, re.ASCII):
        raise ValueError("version: write the number by which this version of the model is called")


def read_publication(document: object) -> Publication:
    """Raises NotDone (INVALID) with the first thing that is wrong; what was written is not repeated."""
    try:
        return Publication.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        detail = first["msg"].removeprefix("Value error, ")
        raise NotDone(Why.INVALID, f"{field}: {detail}" if field else detail, field) from None


def id_of(collection: str, name: str, issuer: str, owner: str) -> str:
    """Of an entry, the same each time. A model has its name, since there is one of it; else the owner is in it, so that
    nobody learns from a name that is taken what others keep private."""
    if collection == MODELS:
        return name
    whose = json.dumps([collection, name, issuer, owner]).encode()
    return f"{name}-{hashlib.sha256(whose).hexdigest()[:12]}"


KINDS = {MODELS: "model", DATASETS: "dataset", PROCESSORS: "processor"}
"""In sentences."""
