"""Connections to Postgres and Redis, and what is wrong with either in one sentence.

For others: `postgres` and `redis` (connections), `causes` (errors in words), `tables` (is Postgres usable?), `migrate`,
`redis_keys` (every key), `store_urls` (settings), `backoff`.
"""
