-- What this Redis process is, and whether it claims to hold every revocation.
-- KEYS: hash tag, complete, followed
-- Returns run_id, replication id, eviction policy, and both keys' values ("" if there is none).
return {
  string.match(redis.call("INFO", "server"), "run_id:(%w+)"),
  string.match(redis.call("INFO", "replication"), "master_replid:(%w+)"),
  string.match(redis.call("INFO", "memory"), "maxmemory_policy:([%w-]+)"),
  redis.call("GET", KEYS[2]) or "",
  redis.call("GET", KEYS[3]) or "",
}
