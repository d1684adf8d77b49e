-- Opens a rebuild, unless another one is under way or has just ended.
-- KEYS: complete, rebuilding
-- ARGV: nonce, lease in ms, marker that was found wanting, nonce of the caller's last rebuild (may be replaced)
-- Returns 1 or 0.
if (redis.call("GET", KEYS[1]) or "") ~= ARGV[3] then
  return 0
end
local other = redis.call("GET", KEYS[2])
if other and other ~= ARGV[4] then
  return 0
end
redis.call("SET", KEYS[2], ARGV[1], "PX", ARGV[2])
redis.call("DEL", KEYS[1])
return 1
