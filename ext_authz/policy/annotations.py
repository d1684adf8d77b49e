"""Type hints of the documents, as the steps of a path into a policy lead through them."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Annotation = Any
"""A type hint is any object."""


def fields(model: Annotation) -> dict[str, FieldInfo]:
    """By the key in the file; empty for what is no model."""
    if not is_model(model):
        return {}
    return {info.alias or name: info for name, info in model.model_fields.items()}


def model_of(annotation: Annotation) -> Annotation:
    """Without the scalar that a union may have besides."""
    bare, _ = unwrapped(annotation)
    return next((member for member in members_of(bare) if is_model(member)), bare)


def is_model(annotation: Annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def origin_of(annotation: Annotation) -> object:
    return get_origin(annotation)


def unwrapped(annotation: Annotation, metadata: tuple[object, ...] = ()) -> tuple[Annotation, tuple[object, ...]]:
    """Without Annotated and None, which take no step in a `loc`."""
    if isinstance(annotation, FieldInfo):
        return unwrapped(annotation.annotation, tuple(annotation.metadata))
    if origin_of(annotation) is Annotated:
        return unwrapped(annotation.__origin__, (*annotation.__metadata__, *metadata))
    members = members_of(annotation)
    return unwrapped(members[0], metadata) if len(members) == 1 else (annotation, metadata)


def members_of(annotation: Annotation) -> list[Annotation]:
    """Of a union, without None."""
    is_union = origin_of(annotation) in (Union, UnionType)
    return [member for member in get_args(annotation) if member is not NoneType] if is_union else []


def below(annotation: Annotation, step: str | int) -> Annotation:
    """Of the value at the next step of a path."""
    if is_model(annotation):
        return fields(annotation).get(str(step))
    arguments = get_args(annotation)  # of dict, tuple[..., ...], frozenset and list
    return arguments[1 if origin_of(annotation) is dict else 0] if arguments else None
