"""What a field of a policy takes, in words, from its annotation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from ext_authz.policy.documents import base, models
from ext_authz.policy.documents.base import Part, Shape
from ext_authz.policytool.reference_examples import Place

_TITLES = {place.part: place.title for place in Place}
_PLAIN = {bool: "`true` or `false`", str: "text", int: "whole number", float: "number"}
FORMS: Mapping[str, Any] = {
    "name": base.Name,
    "text": base.Text,
    "address": base.HttpUrl,
    "duration": base.Duration,
    "rate": base.Rate,
    "header name": base.HeaderName,
    "claim path": base.ClaimName,
    "model name": models.ModelName,
    "version": models.Version,
}
"""What several fields take, by the word that the reference has for it."""


def quota_requests(info: FieldInfo) -> str:
    """For example: list of texts, 1 at least."""
    return _words(info.annotation, tuple(info.metadata))


def shape(form: Any) -> str:  # noqa: ANN401 - a type hint is any object
    """What a form takes, in a sentence."""
    return next(extra.text for extra in get_args(form) if isinstance(extra, Shape))


_WORD_OF = {shape(form): f"[{word}](#forms)" for word, form in FORMS.items()}


def _words(annotation: Any, metadata: tuple[object, ...]) -> str:  # noqa: ANN401 - a type hint is any object
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], (*arguments[1:], *metadata))
    if origin in (Union, UnionType):
        return ", or ".join(_words(member, metadata) for member in arguments if member is not NoneType)
    if origin is Literal:
        return _one_of(arguments)
    if origin in (tuple, frozenset):
        return f"list of {_words(arguments[0], ())}{_size(metadata)}"
    if origin is dict:
        return f"mapping of {_words(arguments[0], ())} to {_words(arguments[1], ())}{_size(metadata)}"
    return _words_of_scalar(annotation, tuple(_spread(metadata)))


def _spread(metadata: Iterable[object]) -> Iterator[object]:
    """`Field(...)` inside of `Annotated` holds bounds of its own."""
    for extra in metadata:
        yield from extra.metadata if isinstance(extra, FieldInfo) else (extra,)


def _words_of_scalar(annotation: Any, metadata: tuple[object, ...]) -> str:  # noqa: ANN401 - a type hint is any object
    if isinstance(annotation, type) and issubclass(annotation, Part):
        title = _TITLES[annotation]
        return f"[{title}](#{title.replace('.', '')})"
    for extra in metadata:
        if isinstance(extra, Shape):
            return _WORD_OF.get(extra.text, extra.text)
        if isinstance(extra, WithJsonSchema) and extra.mode is None:
            return _one_of_schema(extra.json_schema or {})
    return _PLAIN[annotation] + _range(metadata)


def _one_of(values: Iterable[object]) -> str:
    *most, last = (f"`{value}`" for value in values)
    return f"{', '.join(most)} or {last}" if most else last


def _one_of_schema(schema: dict[str, Any]) -> str:
    """A choice of words and patterns."""
    choices = [_one_of(one["enum"]) if "enum" in one else f"what begins with `{one['pattern'].strip('^')}`"
               for one in schema["anyOf"]]  # fmt: skip
    return ", or ".join(choices)


def _range(metadata: tuple[object, ...]) -> str:
    words = []
    for bound in metadata:
        match bound:
            case Ge(ge=least):
                words.append(f"{least} at least")
            case Gt(gt=below):
                words.append(f"above {below}")
            case Le(le=most):
                words.append(f"{most} at most")
    return "".join(f", {word}" for word in words)


def _size(metadata: tuple[object, ...]) -> str:
    words = []
    for bound in metadata:
        match bound:
            case MinLen(min_length=least):
                words.append(f"{least} at least")
            case MaxLen(max_length=most):
                words.append(f"{most} at most")
    return f" ({', '.join(words)})" if words else ""
