"""`asap:` of an issuer - a service that signs its own tokens with keys from a repository (Atlassian's ASAP)."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from ext_authz.policy.documents.base import LOOPBACK, Part, Shape, Text

MAX_SERVICE = 128
"""Characters of the name of a service: the id of its key is longer, and has 200 at most."""
_PART = r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*"
# Parts of the path of an address that has one spelling.
_SERVICE = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)


def ensure_service(issuer: str) -> None:
    """Raises ValueError unless it can be the beginning of the ids of keys."""
    if len(issuer) > MAX_SERVICE or _SERVICE.fullmatch(issuer) is None:
        what = f"with asap the issuer is the name of a service, at most {MAX_SERVICE} letters, digits and ._+-/"
        raise ValueError(f"{what}: write what its tokens have as iss, such as team/web")


def _over_https(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("keys fetched over http can be replaced on the way: use https")
    return url


_Repository = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s?#@%\\]+$", max_length=200),
    AfterValidator(_over_https),
    Shape("an address such as https://keys.example/asap"),
]


class AsapDocument(Part):
    """How the tokens of a service are verified that it signs itself (Atlassian's Service Authentication Protocol).

    Each key is fetched by its id (kid), which is the issuer, a slash and one name: `{repository}/{issuer}/{name}`. What
    a service may do is for the policy to say: of its tokens nothing is read but who it is.
    """

    repositories: tuple[_Repository, ...] = Field(min_length=1, max_length=4, examples=[["https://keys.example/asap"]])
    """Where its public keys are, over https. The next one is asked where one does not answer, not where it says that
    there is no such key."""
    roles: frozenset[Text] = Field(default=frozenset(), max_length=64, examples=[["infer"]])
    """The roles of its callers. A service that signs its own tokens cannot give itself any."""
    other_subjects: bool = Field(default=False, examples=[True])
    """Accept tokens whose sub is another than their issuer: the service may then act for whomever it names. Without a
    sub the service acts for itself."""
    replays: Literal["refuse", "accept"] = "refuse"
    """Whether a token may be used a second time (jti). refuse: no replica takes it again; Redis remembers it until it
    has expired. accept: for clients that use a token again until it expires."""
