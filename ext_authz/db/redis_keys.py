"""Every Redis key, named in one place. All keys of one shard share a hash tag, so a script call touches one slot.

Redis Cluster: "{tg0}", "{tg1}", ... are shards; a single Redis is the case of one shard. Each shard holds a full copy
of the revocations (they are few), its part of the counters and its own ledger stream.
"""

from __future__ import annotations


def shard_tag(shard: int = 0) -> str:
    """Prefix of every key of a shard; the braces are Redis Cluster's hash tag."""
    return f"{{tg{shard}}}"


def revocation(entry_id: str, shard: int = 0) -> str:
    """`entry_id` as made by `revocation.entry`. The value begins with the revision of the row, so that a slow writer
    does not undo a newer one: "N" revokes a token or session, "N:S" what was issued up to second S, "-N" is lifted."""
    return f"{shard_tag(shard)}:r:{entry_id}"


def complete(shard: int = 0) -> str:
    """Completeness marker: holds the `run_id` of the Redis process for which every revocation was written."""
    return f"{shard_tag(shard)}:complete"


def rebuilding(shard: int = 0) -> str:
    """Nonce of a rebuild under way; a flush in the middle erases it, so the marker is not set wrongly."""
    return f"{shard_tag(shard)}:rebuilding"


def alive(shard: int = 0) -> str:
    """Written by every settlement that carries no check: Redis takes writes."""
    return f"{shard_tag(shard)}:alive"


def followed(shard: int = 0) -> str:
    """How far the copy of the revocations was followed up: replication id of Redis, position in Postgres."""
    return f"{shard_tag(shard)}:followed"


def compared(shard: int = 0) -> str:
    """Which process compares the copy with Postgres, row by row; afterwards, until the next time, the rows in force."""
    return f"{shard_tag(shard)}:compared"


def counter(key: str, shard: int = 0) -> str:
    """What a limit has counted for one key, as `settle.lua` and its parts write it."""
    return f"{shard_tag(shard)}:l:{key}"


def boost(key: str, shard: int = 0) -> str:
    """What was given besides a limit for its present window: "amount:id". It ends with the counter."""
    return f"{shard_tag(shard)}:b:{key}"


def events(shard: int = 0) -> str:
    """The ledger stream; fields `e` (event JSON), `o` (`Outcome` as a number), and `l` (the counter that
    refused) or `r` (which of the five ids is revoked, from 0)."""
    return f"{shard_tag(shard)}:events"


def proof(proof_id: str, shard: int = 0) -> str:
    """A DPoP proof that was used; `proof_id` as in `identity.proof.Proof.id`. Expires when the proof does."""
    return f"{shard_tag(shard)}:p:{proof_id}"


def nonce(window: int) -> str:
    """The nonce that callers put into DPoP proofs; `window` counts the periods in which it does not change."""
    return f"{shard_tag()}:nonce:{window}"


LEDGER_GROUP = "usage-worker"
"""The one consumer group of the ledger streams."""
