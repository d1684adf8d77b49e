"""`models:` - who may see, call and administer which model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ext_authz.policy.document.base import Part, Text
from ext_authz.policy.document.permissions import PermissionDocument
from ext_authz.policy.model_path import Shape
from ext_authz.policy.names import VERSION


def _speakable(name: str) -> str:
    if name in (".", "..", "-"):
        raise ValueError(f"no call can name a model {name}: give it a name with a letter or a digit")
    return name


ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_.*-]{1,128}$"),
    AfterValidator(_speakable),
    Shape("letters, digits, _, . and -, at most 128; * stands for any characters"),
]
"""As `policy.names.MODEL`, and patterns of such names."""
Version = Annotated[
    str, StringConstraints(pattern=f"^{VERSION}$"), Shape("the number of a version, without leading zero")
]


class VersionDocument(Part):
    """What one version takes besides what its model takes. A call that names no version may reach every one.

    Holds over REST and gRPC, whatever the model runs on (docs/adr/0017-what-a-message-names.md).
    """

    call: PermissionDocument | None = Field(
        default=None, description="Who may call this version.", examples=[{"role": "tester"}]
    )
    see: PermissionDocument | None = Field(default=None, description="Who may see this version.")
    administer: PermissionDocument | None = Field(default=None, description="Who may administer this version.")

    @model_validator(mode="after")
    def _narrows(self) -> Self:
        if self.call is None and self.see is None and self.administer is None:
            raise ValueError("write at least one of call, see and administer")
        return self


class ModelDocument(Part):
    """One model, or all whose name fits a pattern. What is not granted is denied."""

    visibility: Literal["public", "private"] = Field(
        default="private", description="public: every verified caller may see it. private: who may call it may see it."
    )
    roles: frozenset[Text] | None = Field(
        default=None, description="Shorthand for call: any of these roles.", min_length=1, examples=[["infer"]]
    )
    call: PermissionDocument | None = Field(
        default=None,
        description="Who may call it. Default: nobody.",
        examples=[{"any": [{"role": "infer"}, {"group": "research"}]}],
    )
    see: PermissionDocument | None = Field(
        default=None, description="Who may see it: its metadata, statistics, readiness. Default: who may call it."
    )
    administer: PermissionDocument | None = Field(
        default=None, description="Who may load and unload it. Default: nobody.", examples=[{"role": "models-admin"}]
    )
    versions: dict[Version, VersionDocument] = Field(
        default={}, description="What single versions take besides.", examples=[{"2": {"call": {"role": "tester"}}}]
    )

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.roles is not None and self.call is not None:
            raise ValueError("roles is short for call: keep one of them")
        if self.visibility == "public" and self.see is not None:
            raise ValueError("every verified caller may see a public model: leave out see, or make it private")
        return self
