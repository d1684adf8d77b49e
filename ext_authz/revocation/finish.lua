-- Ends a rebuild: from now on this process counts as complete, if it is still the one that was found at the start,
-- with the same history, and the nonce is there: nothing can have been lost in between.
-- KEYS: complete, rebuilding, followed. ARGV: nonce, run_id, replication id, value of `followed`
-- Returns 1 or 0.
redis.replicate_commands()  -- Redis 6: lets a script write after INFO
local same_process = string.match(redis.call("INFO", "server"), "run_id:(%w+)") == ARGV[2]
local same_history = string.match(redis.call("INFO", "replication"), "master_replid:(%w+)") == ARGV[3]
local keeps_keys = string.match(redis.call("INFO", "memory"), "maxmemory_policy:([%w-]+)") == "noeviction"
if redis.call("GET", KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call("DEL", KEYS[2])
if not (same_process and same_history and keeps_keys) then
  return 0
end
redis.call("SET", KEYS[1], ARGV[2])
redis.call("SET", KEYS[3], ARGV[4])
return 1
