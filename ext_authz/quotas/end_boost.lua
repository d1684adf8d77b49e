-- Takes a boost back, once: what was used of it stays used.
--
-- KEYS  the counter, its boost
-- ARGV  id of the boost
-- Returns 1; or 0 where it was in force no more: its window has ended, the counter was reset, or Redis lost both.

local call = redis.call

local amount, id = string.match(call("GET", KEYS[2]) or "", "^(%d+):(.+)$")
if id ~= ARGV[1] then return 0 end
call("DEL", KEYS[2])
local ends, used = string.match(call("GET", KEYS[1]) or "", "^(%d+):(-?%d+)$")
if ends then call("SET", KEYS[1], string.format("%d:%d", ends, used + amount), "PXAT", ends) end
return 1
