"""The proof without its three minutes: it reads the counters of the kernel, and says what it needs."""

from __future__ import annotations

import os
import socket

import pytest

from bundle.proof import _counters, main


def test_a_datagram_to_nobody_is_counted() -> None:
    """As a question to a DNS server on loopback would be. Other processes of this machine are counted too."""
    before = _counters()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, socket.socket(type=socket.SOCK_DGRAM) as sender:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        taken.close()
        sender.sendto(b"", address)
    after = _counters()
    assert after["IPv4 to no port"] > before["IPv4 to no port"]
    assert all(after[name] >= count for name, count in before.items())


def test_it_is_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="becomes an ordinary user: run it as root"):
        main(["archive.tar", "python3"])
