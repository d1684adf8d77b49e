"""Whose address counts: no entry of X-Forwarded-For is believed that our own proxies did not write."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.decision import Request
from ext_authz.phases.client_address import client_address, client_behind, counted

PEER = "10.0.0.7"


def address(peer: str, forwarded: str, hops: int) -> str:
    return client_address(Request("GET", "h", "/", source=peer, headers={"x-forwarded-for": forwarded}), hops)


def test_a_request_without_the_header_comes_from_its_peer() -> None:
    assert client_address(Request("GET", "h", "/", source=PEER), 1) == PEER


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        ("", 0, PEER),
        ("203.0.113.9", 0, PEER),
        ("203.0.113.9", 1, "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", 1, "203.0.113.9"),
        ("6.6.6.6,203.0.113.9,10.1.1.1", 2, "203.0.113.9"),
        ("6.6.6.6,\t203.0.113.9 , 10.1.1.1", 2, "203.0.113.9"),
        ("203.0.113.9", 2, PEER),
        ("", 1, PEER),
        (",", 1, PEER),
        ("203.0.113.9,", 1, PEER),
        ("203.0.113.9, unknown", 1, PEER),
        ("6.6.6.6, nonsense, 10.1.1.1", 2, PEER),
        ("203.0.113.9, 10.1.1.1", 16, PEER),
        ("203.0.113.9:4711", 1, "203.0.113.9"),
        ("[2001:db8:1:2:3:4:5:6]:443", 1, "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::6]", 1, "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff::1", 1, "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", 1, "203.0.113.9"),
        ("fe80::1%eth0", 1, "fe80::/64"),
        ("203.0.113.9:", 1, PEER),
        ("203.0.113.9:123456", 1, PEER),
        ("[203.0.113.9", 1, PEER),
        ("0203.0.113.9", 1, PEER),
        ("203.0.113.9/8", 1, PEER),
        ("3405803785", 1, PEER),
    ],
)
def test_the_right_most_entry_that_we_did_not_make_up(forwarded: str, hops: int, expected: str) -> None:
    assert address(PEER, forwarded, hops) == expected


def test_the_peer_counts_in_the_same_form() -> None:
    assert address("::ffff:10.0.0.7", "", 0) == PEER
    assert address("2001:db8::7", "", 0) == "2001:db8::/64"
    assert address("/run/envoy.sock", "203.0.113.9", 0) == "/run/envoy.sock"


addresses = st.ip_addresses().map(str)


@given(forged=st.text(max_size=60), ours=st.lists(addresses, min_size=1, max_size=4))
def test_what_a_caller_writes_changes_nothing(forged: str, ours: list[str]) -> None:
    alone = address(PEER, ",".join(ours), len(ours))
    assert address(PEER, ",".join([forged, *ours]), len(ours)) == alone == counted(ours[0])


@given(text=st.text(alphabet="0123456789abcdef.:[]%/ \t", max_size=50) | st.text(max_size=50))
def test_only_addresses_count(text: str) -> None:
    found = counted(text)
    assert not found or (ip_network(found) if "/" in found else ip_address(found))


def test_a_header_that_came_twice_is_one_list() -> None:
    assert client_behind("10.0.0.1", ["203.0.113.9", "198.51.100.7"], 1) == "198.51.100.7"
    assert client_behind("10.0.0.1", [], 1) == "10.0.0.1"
