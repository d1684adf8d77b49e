"""The card of a model: a README with or without YAML in front of it, as model hubs write it."""

from __future__ import annotations

import logging
import re
from typing import Annotated

import yaml
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ext_authz.catalogue.entry import Card
from ext_authz.catalogue.texts import Text, Url

log = logging.getLogger(__name__)

MOST_BYTES = 65_536
"""Of a card; what is longer is not read."""
TASKS = frozenset(
    [
        *("regression", "classification", "scene-classification", "detection", "object-detection", "segmentation"),
        *("semantic-segmentation", "instance-segmentation", "panoptic-segmentation", "similarity-search"),
        *("generative", "image-captioning", "super-resolution", "downscaling"),
    ]
)
"""Of the MLM extension, 1.4."""
_FRONT = re.compile(r"---\r?\n(.*?)^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"#[ \t]+(.{1,255})\r?\n")
_SPDX = re.compile(r"[A-Za-z0-9.+() -]{1,64}", re.ASCII)


class _Plain(yaml.SafeLoader):
    """Without aliases: merged into each other a few of them are gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="has an alias (*): write what it stands for")
        return super().compose_node(parent, index)


def _known_task(text: str) -> str:
    if text not in TASKS:
        raise ValueError(f"write one of {', '.join(sorted(TASKS))}")
    return text


class _Front(BaseModel):
    """What is read of the YAML; other keys are other people's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: Text | None = None
    license: Annotated[str, StringConstraints(max_length=64)] = ""
    keywords: Annotated[list[Text], Field(max_length=50, validation_alias=AliasChoices("keywords", "tags"))] = []
    tasks: Annotated[list[Annotated[str, AfterValidator(_known_task)]], Field(max_length=20)] = []
    architecture: Text | None = None
    learning_approach: Text | None = None
    datasets: Annotated[list[Url], Field(max_length=50)] = []
    mlflow_run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None


def card_of(text: str, model: str) -> Card:
    """`model`: for the log, which says what is wrong with a card. What cannot be read of it is left out."""
    found = _FRONT.match(text)
    front = _read(found[1], model) if found else _Front()
    body = (text[found.end() :] if found else text).lstrip()
    heading = _HEADING.match(body)
    return Card(
        title=front.title or (heading[1].strip() if heading else ""),
        description=(body[heading.end() :] if heading else body).strip(),
        license=front.license if _SPDX.fullmatch(front.license) else "other" if front.license else "",
        keywords=tuple(dict.fromkeys(front.keywords)),
        tasks=tuple(dict.fromkeys(front.tasks)),
        architecture=front.architecture or "",
        learning_approach=front.learning_approach or "",
        sources=tuple(dict.fromkeys(front.datasets)),
        mlflow_run_id=front.mlflow_run_id or "",
    )


def _read(text: str, model: str) -> _Front:
    try:
        said = yaml.load(text, _Plain)  # noqa: S506 - a SafeLoader
        return _Front.model_validate(said or {})
    except RecursionError:
        why = "is nested too deeply"
    except yaml.YAMLError as error:
        why = str(getattr(error, "problem", None) or "is no YAML")
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg'].removeprefix('Value error, ')}"
    except ValueError as error:
        why = str(error)[:200]
    log.warning("catalogue: the front matter of a card is not read", extra={"model": model, "detail": why})
    return _Front()
