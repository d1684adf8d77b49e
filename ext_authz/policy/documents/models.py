"""`permission:`, `models:` and `experiments:` - who may do what with which model, and which variant a caller gets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ext_authz.policy.documents.base import Duration, HeaderName, Name, Part, Shape, Text
from ext_authz.policy.names import VERSION

_FORMS = "any, all, not, role, scope, group, principal, client"


class PermissionDocument(Part):
    """Exactly one of these keys."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    any: tuple[PermissionDocument, ...] | None = Field(
        default=None, min_length=1, examples=[[{"role": "infer"}, {"group": "research"}]]
    )
    """At least one of these."""
    all: tuple[PermissionDocument, ...] | None = Field(
        default=None, min_length=1, examples=[[{"role": "infer"}, {"scope": "models"}]]
    )
    """All of these."""
    not_: PermissionDocument | None = Field(default=None, alias="not", examples=[{"client": "legacy-app"}])
    """Everyone but these."""
    role: Text | None = Field(default=None, examples=["infer"])
    """Callers with this role."""
    scope: Text | None = Field(default=None, examples=["models"])
    """Tokens with this scope."""
    group: Text | None = Field(default=None, examples=["research"])
    """Callers in this group."""
    principal: Text | None = Field(default=None, examples=["alice"])
    """The caller with this subject (sub), of any issuer."""
    client: Text | None = Field(default=None, examples=["web-app"])
    """Tokens issued to this client (azp) of the identity provider; no API token, whose label its owner chooses."""

    @field_validator("client")
    @classmethod
    def _not_chosen(cls, client: str | None) -> str | None:
        """Whoever may have an API token may call it so."""
        if client is not None and client.startswith("tollgate:"):
            raise ValueError(
                "tollgate:NAME is the label of an API token, which whoever makes one chooses: write principal: and the "
                "subject of its owner (of a service account service:NAME), or a role"
            )
        return client

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"write exactly one of {_FORMS}")
        return self


def _callable(name: str) -> str:
    if name in (".", "..", "-"):
        raise ValueError(f"no call can name a model {name}: write a name with a letter or a digit")
    return name


ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_.*-]{1,128}$"),
    AfterValidator(_callable),
    Shape("letters, digits, _, . and -, at most 128; * matches any characters"),
]
"""As `policy.names.MODEL`, and patterns of such names."""


def _as_version(text: str) -> str:
    return text.lower().lstrip("v0")


Version = Annotated[
    str, StringConstraints(pattern=f"^{VERSION}$"), Shape("the number of a version, without leading zero", _as_version)
]


class VersionDocument(Part):
    """What one version requires besides what its model requires. A call that names no version may reach every one.

    Applies to REST and gRPC, on any server (docs/adr/0017-what-a-message-names.md).
    """

    call: PermissionDocument | None = Field(default=None, examples=[{"role": "tester"}])
    """Who may call this version."""
    see: PermissionDocument | None = None
    """Who may see this version."""
    administer: PermissionDocument | None = None
    """Who may administer this version."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.call is None and self.see is None and self.administer is None:
            raise ValueError("write at least one of call, see and administer")
        return self


class PredictionsDocument(Part):
    """The prediction log of a model: its inputs and outputs, kept for the owner of the model. Only calls of models that
    write one (docs/models.md) are in it."""

    inputs: Literal["none", "hashed", "full"] = "none"
    """Whether inputs are kept: not at all, as a keyed hash (equal inputs are recognised), or as they were sent."""
    keep: Duration = "30d"
    """How long a prediction is kept."""
    readers: PermissionDocument = Field(examples=[{"role": "sentiment-owner"}])
    """Who may read, export and delete them."""


class ModelDocument(Part):
    """One model, or all whose name matches a pattern. What is not granted is denied."""

    visibility: Literal["public", "private"] = "private"
    """public: every verified caller may see it. private: who may call it may see it."""
    roles: frozenset[Text] | None = Field(default=None, min_length=1, examples=[["infer"]])
    """Shorthand for call: any of these roles."""
    call: PermissionDocument | None = Field(
        default=None, examples=[{"any": [{"role": "infer"}, {"group": "research"}]}]
    )
    """Who may call it. Default: no caller."""
    see: PermissionDocument | None = None
    """Who may see it: its metadata, statistics, readiness. Default: who may call it."""
    administer: PermissionDocument | None = Field(default=None, examples=[{"role": "models-admin"}])
    """Who may load and unload it. Default: no caller."""
    versions: dict[Version, VersionDocument] = Field(default={}, examples=[{"2": {"call": {"role": "tester"}}}])
    """What single versions require besides."""
    predictions: PredictionsDocument | None = None
    """Keep a log of its predictions. Default: none."""

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.roles is not None and self.call is not None:
            raise ValueError("roles is short for call: remove one of them")
        if self.visibility == "public" and self.see is not None:
            raise ValueError("every verified caller may see a public model: remove see, or make it private")
        return self


class OverrideDocument(Part):
    """Callers that choose the variant themselves."""

    header: HeaderName = Field(examples=["x-experiment"])
    """The header that selects the variant."""
    values: dict[Text, Name] = Field(min_length=1, examples=[{"canary": "canary"}])
    """Its values, each with the variant that it selects."""
    permission: PermissionDocument = Field(examples=[{"role": "tester"}])
    """Who may choose."""


class MirrorDocument(Part):
    """Copies of calls, for a variant that is compared before it serves anybody. Nobody gets its answers, and a copy
    takes no quota and is not in the ledger."""

    to: Name = Field(examples=["canary"])
    """The variant that gets the copies: calls of the first variant are copied."""
    percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Share of the calls, in per cent."""


class ExperimentDocument(Part):
    """One model with several variants; a caller always gets the same one."""

    model: ModelName = Field(examples=["sentiment"])
    """The name of the model in requests."""
    weights: dict[Name, Annotated[int, Field(ge=0, le=100)]] = Field(
        min_length=1, examples=[{"stable": 90, "canary": 10}]
    )
    """Variants with their share in per cent, 100 in all. An unauthenticated caller gets the first."""
    salt: Text | None = Field(default=None, examples=["round-2"])
    """Change it to assign the callers anew. Default: the name of the experiment."""
    override: OverrideDocument | None = None
    """Who may select a variant with a header."""
    versions: dict[Name, Version] = Field(default={}, examples=[{"stable": "1", "canary": "2"}])
    """The version of the model that each variant serves. Callers read it in the header x-model-version of answers. A
    call that names the first variant's gets that variant; that of another one, if the caller may choose."""
    mirror: MirrorDocument | None = None
    """Copy calls of the first variant to another one. Default: no copies."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (total := sum(self.weights.values())) != 100:
            raise ValueError(f"the weights are {total} in all: they must be 100")
        if "*" in self.model:
            raise ValueError("an experiment needs the name of one model, not a pattern")
        chosen = self.override.values.values() if self.override else ()
        if missing := [variant for variant in chosen if variant not in self.weights]:
            raise ValueError(f"the override selects {missing[0]!r}, which has no weight: add it to weights")
        if unknown := [variant for variant in self.versions if variant not in self.weights]:
            raise ValueError(f"versions has {unknown[0]!r}, which has no weight: add it to weights")
        return self

    @model_validator(mode="after")
    def _mirrored_elsewhere(self) -> Self:
        first, *others = self.weights
        if self.mirror and self.mirror.to not in others:
            known = ", ".join(others) or "none"
            raise ValueError(
                f"calls of {first!r} can be copied to another variant in weights only (there are: {known})"
            )
        return self
