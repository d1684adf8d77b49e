"""From the `loc` of a pydantic error to a path into the policy, and to what the model says about that place.

A `loc` also holds steps that are not in the file: the tag or the name of the chosen member of a union, and `[key]`.
Only the model tells them from keys of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from msgspec import Struct, field
from pydantic import BaseModel, Discriminator, RootModel, Tag
from pydantic.fields import FieldInfo

from ext_authz.policy.documents.base import Shape
from ext_authz.policy.faults import Step
from ext_authz.policy.yaml_tree import Node, child

Annotation = Any  # a type hint is any object


class Located(Struct):
    """Where an error is, in the policy and in its model."""

    path: list[Step] = field(default_factory=list)
    annotation: Annotation = Any
    metadata: tuple[object, ...] = ()
    container: Annotation = Any
    """What the model says about the mapping or list that the last step is in."""
    is_key: bool = False
    unions: list[tuple[tuple[Step, ...], str]] = field(default_factory=list)
    """Each union without a discriminator on the way, and the member that the error is about."""

    @property
    def key(self) -> tuple[Step, ...]:
        return tuple(self.path)

    @property
    def shape(self) -> str:
        return next((data.text for data in self.metadata if isinstance(data, Shape)), "")

    @property
    def siblings(self) -> list[str]:
        """The keys that may stand beside the last step."""
        return list(fields(self.container))


def located(loc: Sequence[Step], root: type[BaseModel], tree: Node) -> Located:
    """Follows the steps through the model; below what the model does not describe, through the tree."""
    at = Located()
    at.annotation, at.metadata = _unwrapped(root, ())
    node: Node | None = tree
    for step in loc:
        if members := _members(at.annotation):
            _choose(at, members, str(step))
        elif step == "[key]":
            at.is_key = True
            at.annotation, at.metadata = _unwrapped(next(iter(get_args(at.container)), Any), ())
        elif at.annotation is not Any or (node is not None and child(node, step) is not None):
            at.path.append(step)
            at.container = at.annotation
            at.annotation, at.metadata = _below(at.annotation, step)
            node = None if node is None else child(node, step)
    return at


def fields(model: Annotation) -> dict[str, FieldInfo]:
    """By the name that stands in the file; empty for what is no model."""
    if not _is_model(model):
        return {}
    model.model_rebuild(raise_errors=False)  # a model that only others use has its later names still to be found
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _is_model(annotation: Annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unwrapped(annotation: Annotation, metadata: tuple[object, ...]) -> tuple[Annotation, tuple[object, ...]]:
    """Without Annotated, type aliases, None and root models, which take no step in a `loc`."""
    while True:
        members = [member for member in _arguments_of_union(annotation) if member is not NoneType]
        if _origin(annotation) is Annotated:
            annotation, metadata = annotation.__origin__, (*metadata, *annotation.__metadata__)
        elif hasattr(annotation, "__value__"):  # `type X = ...`, whichever module it comes from
            annotation = annotation.__value__
        elif len(members) == 1:
            annotation = members[0]
        elif _is_model(annotation) and issubclass(annotation, RootModel):
            annotation, of_root = _of_field(annotation.model_fields["root"])
            metadata = (*metadata, *of_root)
        elif isinstance(annotation, str | ForwardRef):
            return Any, ()  # only the module that wrote it could tell what it means
        else:
            return annotation, metadata


def _of_field(info: FieldInfo) -> tuple[Annotation, tuple[object, ...]]:
    return info.annotation, (*info.metadata, info)


def _origin(annotation: Annotation) -> object:
    return get_origin(annotation)


def _arguments_of_union(annotation: Annotation) -> tuple[Annotation, ...]:
    return get_args(annotation) if _origin(annotation) in (Union, UnionType) else ()


def _below(annotation: Annotation, step: Step) -> tuple[Annotation, tuple[object, ...]]:
    if isinstance(step, str) and (info := fields(annotation).get(step)):
        return _unwrapped(*_of_field(info))
    arguments = get_args(annotation)
    if _origin(annotation) is tuple and isinstance(step, int) and arguments[-1] is not Ellipsis:
        below = arguments[step] if step < len(arguments) else Any
    elif _origin(annotation) in (None, Literal):
        below = Any
    else:
        below = arguments[1 if isinstance(step, str) and len(arguments) == 2 else 0]
    return _unwrapped(below, ())


def _members(annotation: Annotation) -> list[Annotation]:
    """The members of a union, those of unions in it included, each with its metadata around it."""
    found: list[Annotation] = []
    for member in _arguments_of_union(annotation):
        found += _members(_unwrapped(member, ())[0]) or ([] if member is NoneType else [member])
    return found


def _choose(at: Located, members: list[Annotation], label: str) -> None:
    discriminator = next(filter(None, (_discriminator(data) for data in at.metadata)), None)
    if discriminator is None:
        at.unions.append((tuple(at.path), label))
        chosen = (member for member in members if _is_labelled(member, label))
    else:
        chosen = (member for member in members if _is_tagged(member, discriminator, label))
    at.annotation, at.metadata = _unwrapped(next(chosen, Any), ())


def _discriminator(data: object) -> str | Callable[[Any], object] | None:
    found = data.discriminator if isinstance(data, FieldInfo | Discriminator) else None
    return found.discriminator if isinstance(found, Discriminator) else found


def _is_tagged(member: Annotation, discriminator: object, tag: str) -> bool:
    annotation, metadata = _unwrapped(member, ())
    if any(isinstance(data, Tag) and data.tag == tag for data in metadata):
        return True
    info = fields(annotation).get(str(discriminator))
    return info is not None and tag in map(str, get_args(_unwrapped(info.annotation, ())[0]))


def _is_labelled(member: Annotation, label: str) -> bool:
    """pydantic names a member after its class or kind, with that of a validator around it: `function-after[f(), A]`."""
    annotation = _unwrapped(member, ())[0]
    named = _origin(annotation) or annotation
    name = "literal" if named is Literal else getattr(named, "__name__", "")
    words = re.findall(r"[A-Za-z_]\w*", label)
    return name in words[-1:] or name in words[:1]
