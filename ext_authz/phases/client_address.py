"""Whose address counts: the TCP peer's, or the one that our own outermost proxy wrote into X-Forwarded-For.

The header is read from the right, and no further than our own proxies wrote it: whatever stands left of that, the
caller may have written. An IPv6 address counts as its /64: one customer's connection has all of them, and a limit per
single address would be none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from ext_authz.decision import Request

_FORWARDED = "x-forwarded-for"
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\d{1,5})?|(?P<v4>[0-9.]+):\d{1,5}")
_HOST_BITS = 64
_LONGEST = 100
"""Characters: an IPv6 address with brackets, zone and port, and blanks around it."""


def client_address(request: Request, trusted_hops: int) -> str:
    """`trusted_hops`: how many entries from the right our own proxies wrote.

    The peer where there are fewer entries, or the entry is no address: then the header is not what was promised.
    """
    if trusted_hops:
        entries = request.headers.get(_FORWARDED, "").rsplit(",", trusted_hops)
        written_by_us = counted(entries[-trusted_hops]) if len(entries) >= trusted_hops else ""
        if written_by_us:
            return written_by_us
    return counted(request.source) or request.source


def client_behind(peer: str, forwarded: Iterable[str], trusted_hops: int) -> str:
    """The same, of a request that did not come by the check; `forwarded`: every X-Forwarded-For header, in order."""
    headers = {_FORWARDED: ",".join(forwarded)}
    return client_address(Request("", "", "", source=peer, headers=headers), trusted_hops)


def counted(text: str) -> str:
    """An address, with or without a port, in the one form that is counted by; empty where it is none."""
    return _counted(text) if len(text) <= _LONGEST else ""


@lru_cache(maxsize=10_000)
def _counted(text: str) -> str:
    text = text.strip(" \t")
    if found := _WITH_PORT.fullmatch(text):
        text = found["v6"] or found["v4"] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return _network(address) if address.ipv4_mapped is None else str(address.ipv4_mapped)
    return str(address)


def _network(address: IPv6Address) -> str:
    return f"{IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS)}/{_HOST_BITS}"
