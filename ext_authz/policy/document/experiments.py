"""`experiments:` - the callers of a model, divided among its variants."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ext_authz.policy.document.base import HeaderName, Name, Part, Text
from ext_authz.policy.document.models import ModelName
from ext_authz.policy.document.permissions import PermissionDocument


class OverrideDocument(Part):
    """Choosing the variant oneself."""

    header: HeaderName = Field(description="The header that chooses.", examples=["x-experiment"])
    values: dict[Text, Name] = Field(
        description="Its values, each with the variant that it chooses.", min_length=1, examples=[{"canary": "canary"}]
    )
    permission: PermissionDocument = Field(description="Who may choose.", examples=[{"role": "tester"}])


class ExperimentDocument(Part):
    """One model, several variants; a caller stays with one."""

    model: ModelName = Field(description="The model that callers name.", examples=["sentiment"])
    weights: dict[Name, Annotated[int, Field(ge=0, le=100)]] = Field(
        description="Variants with their share in per cent, 100 in all. The first is what an unknown caller gets.",
        min_length=1,
        examples=[{"stable": 90, "canary": 10}],
    )
    salt: Text | None = Field(
        default=None,
        description="Change it to divide the callers anew. Default: the experiment's name.",
        examples=["round-2"],
    )
    override: OverrideDocument | None = Field(default=None, description="Who may choose a variant by a header.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (total := sum(self.weights.values())) != 100:
            raise ValueError(f"the weights are {total} in all, not 100")
        if "*" in self.model:
            raise ValueError("an experiment is about one model, not a pattern")
        chosen = self.override.values.values() if self.override else ()
        if missing := [variant for variant in chosen if variant not in self.weights]:
            raise ValueError(f"the override chooses {missing[0]!r}, which has no weight")
        return self
