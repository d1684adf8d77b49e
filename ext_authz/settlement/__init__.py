"""Settlement: one Redis call per batch of checks answers revocation and quota, and writes the ledger event.

Others import `model` (request, result, the `Settlement` protocol), `redis.RedisSettlement`, `local` (limits counted in
this process, `MemorySettlement`), `failure_mode` (what goes on without a dependency), `outages` (what is away, for
operators), and `connection.SCRIPT`. The rest is internal: `shard` sends the batches of one shard, `pipeline` holds what
waits, `batch` writes it for `settle.lua`, `connection` carries it, `room` observes memory and ledger, `cluster` is for
Redis Cluster.
"""
