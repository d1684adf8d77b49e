"""`permission:` and its like - who may, as a tree."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from ext_authz.policy.document.base import Part, Text

_FORMS = "any, all, not, role, scope, group, principal, client"


class PermissionDocument(Part):
    """Exactly one of these keys."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    any: tuple[PermissionDocument, ...] | None = Field(
        default=None,
        description="At least one of these.",
        min_length=1,
        examples=[[{"role": "infer"}, {"group": "research"}]],
    )
    all: tuple[PermissionDocument, ...] | None = Field(
        default=None, description="All of these.", min_length=1, examples=[[{"role": "infer"}, {"scope": "models"}]]
    )
    not_: PermissionDocument | None = Field(
        default=None, alias="not", description="Everyone but these.", examples=[{"client": "legacy-app"}]
    )
    role: Text | None = Field(default=None, description="Callers with this role.", examples=["infer"])
    scope: Text | None = Field(default=None, description="Tokens with this scope.", examples=["models"])
    group: Text | None = Field(default=None, description="Callers in this group.", examples=["research"])
    principal: Text | None = Field(
        default=None,
        description="The caller with this subject (sub), whichever issuer vouches for it.",
        examples=["alice"],
    )
    client: Text | None = Field(default=None, description="Tokens that this client got (azp).", examples=["web-app"])

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        said = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(said) != 1:
            raise ValueError(f"write exactly one of {_FORMS}")
        return self
