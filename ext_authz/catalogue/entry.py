"""What the catalogue knows of one thing: a served model, or a dataset or processor that somebody published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

MODELS, DATASETS, PROCESSORS = "ai-model", "dataset", "processor"
"""The collections, as SharingHub calls them."""


class Tensor(Struct, frozen=True):
    """An input or output of a model."""

    name: str
    data_type: str
    """As STAC has it (raster extension): `float32`, `int64`; `other` for text and truth values."""
    shape: tuple[int, ...]
    """-1: any size."""
    batched: bool
    """The first dimension is that of the batch."""


class Card(Struct, frozen=True, kw_only=True):
    """What the README of a model says."""

    title: str = ""
    description: str = ""
    """CommonMark."""
    license: str = ""
    """An SPDX expression, `other`, or empty: not said."""
    keywords: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    """Those of the MLM extension."""
    architecture: str = ""
    learning_approach: str = ""
    sources: tuple[str, ...] = ()
    """URLs of what it was made from."""
    mlflow_run_id: str = ""


class Origin(Struct, frozen=True, kw_only=True):
    """Where a version of a model came from: what `tollgate models promote` or `deploy` left beside it."""

    version: str
    """By which it is called."""
    registered: str
    """Name and version in MLflow's registry."""
    run: str
    """Of MLflow, which has its parameters and metrics."""
    checksum: str
    """SHA-256, in hex, of the file with the checksums of what is served."""
    signed: bool
    """There is a signature; that it is good, the build of the repository has seen, if it was asked to."""
    aliases: tuple[str, ...] = ()
    """That it had in the registry when it was promoted or deployed."""


class Published(Struct, frozen=True, kw_only=True):
    """What the one who published it adds."""

    owner: str
    """As people read it; empty for who is not known."""
    visibility: str
    version: str
    """The latest that is published."""
    versions: tuple[str, ...]
    """All that are, the latest first."""
    assets: Mapping[str, Any] = {}
    """By name, as in a STAC item."""
    parameters: tuple[Mapping[str, Any], ...] = ()
    """Of a processor."""


class InGitlab(Struct, frozen=True, kw_only=True):
    """What a project of a GitLab adds."""

    number: int
    path: str
    name: str
    visibility: str
    """private, internal or public."""
    branch: str
    """The default one; empty: there is none."""
    url: str
    assets: Mapping[str, Any] = {}
    """By name, as in a STAC item."""


class Access(Struct, frozen=True):
    """What a caller may do, as SharingHub says it."""

    number: int
    """GitLab's, or one that follows from the name."""
    name: str
    path: str
    level: int
    """1 is a member of the project and no more, 2 read (of a model call), 3 create and update too, 4 delete too (of a
    model administer)."""
    categories: tuple[str, ...]


class Entry(Struct, frozen=True, kw_only=True):
    """As one caller may see it."""

    collection: str
    id: str
    """Unique in its collection."""
    at: datetime
    """When it was changed last."""
    versions: tuple[str, ...] = ()
    """Those that the caller may call; empty where nobody knows which there are."""
    framework: str = ""
    artifact: str = ""
    """The kind of what the server loads: `python`, `onnxruntime_onnx`. Empty: the caller may not see the model, or
    nothing describes it."""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    card: Card = Card()
    origins: tuple[Origin, ...] = ()
    """Of versions that were promoted."""
    stars: int = 0
    published: Published | None = None
    """None: nobody did, or it is not for this caller."""
    gitlab: InGitlab | None = None
    """None: it is no project of a GitLab."""

    @property
    def title(self) -> str:
        return self.card.title or self.id

    @property
    def is_served(self) -> bool:
        """A model that can be called here."""
        return self.collection == MODELS and self.gitlab is None

    @property
    def key(self) -> tuple[str, str]:
        return self.collection, self.id
