"""Whether a token is revoked: the truth in Postgres, a copy in every shard of Redis, a file for outages of both.

For others: `entry` (`Kind`, the ids of a token and the rule `revoked_by`), `store.RevocationStore`, `mirror.Mirror` and
`keeper.Keeper` (to run), `known.KnownRevocations`, `operations.opened` (what an operator does), `target` and `printed`.
"""
