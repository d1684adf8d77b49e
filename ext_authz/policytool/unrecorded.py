"""Stand-ins for what the ledger does not keep of a call: whoever looks at them learns that, and nothing wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from ext_authz.errors import TollgateError
from ext_authz.identity.identity import Claim


class NotRecorded(TollgateError):
    """A decision depends on something that was not kept; the text says on what."""


class Headers(Mapping[str, str]):
    """The ledger keeps none: they may hold credentials."""

    def __getitem__(self, name: str) -> NoReturn:
        raise NotRecorded("headers")

    def __iter__(self) -> Iterator[str]:
        raise NotRecorded("headers")

    def __len__(self) -> NoReturn:
        raise NotRecorded("headers")


class KeptClaims(dict[str, Claim]):
    """What was kept of a token, and which names were not looked for at the time."""

    def __init__(self, known: Mapping[str, Claim], unknown: frozenset[str]) -> None:
        super().__init__(known)
        self.unknown = unknown

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]  # one signature is enough here
        if name in self.unknown:
            raise NotRecorded(f"the claim {name}")
        return super().get(name, default)
