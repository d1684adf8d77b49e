"""How large a policy may be: whoever may write a file of it can neither stall nor exhaust the service."""

from __future__ import annotations

from msgspec import Struct


class Bounds(Struct, frozen=True):
    """Sizes in bytes, of files as they lie on disk."""

    file_bytes: int = 4 << 20
    total_bytes: int = 16 << 20
    substituted: int = 1 << 20
    """Characters that all references to the environment may add together."""
    files: int = 1000
    nesting: int = 8
    """Files that include files."""
    nodes: int = 1_000_000
    """Keys and values of all files."""
    faults: int = 1000
    """After so many the reading stops."""
    depth: int = 64
    """Mappings and lists inside each other."""


class Budget:
    """What of the bounds is used up while the files of one policy are read."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.bytes_left = bounds.total_bytes
        self.files_left = bounds.files
        self.nodes_left = bounds.nodes
        self.substituted_left = bounds.substituted
