-- Gives more in one window of a limit, as less than nothing that was used of it: settle.lua needs not know of boosts.
--
-- KEYS  the counter, its boost
-- ARGV  id of the boost, amount, when a window that opens now ends, time after which nobody waits (both in ms)
-- Returns 1; 0 where the window has a boost already, of which it can have one; -1 where it was too late.

local call, tonumber, format = redis.call, tonumber, string.format

local time = call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local latest_end = tonumber(ARGV[3])
if now > tonumber(ARGV[4]) then return -1 end
local ends, used = string.match(call("GET", KEYS[1]) or "", "^(%d+):(-?%d+)$")
ends, used = tonumber(ends or 0), tonumber(used or 0)
if ends <= now then
  ends, used = latest_end, 0
elseif ends > latest_end then
  ends = latest_end
end
if call("GET", KEYS[2]) then return 0 end
local expires = format("%d", ends)
call("SET", KEYS[1], format("%d:%d", ends, used - tonumber(ARGV[2])), "PXAT", expires)
call("SET", KEYS[2], ARGV[2] .. ":" .. ARGV[1], "PXAT", expires)
return 1
