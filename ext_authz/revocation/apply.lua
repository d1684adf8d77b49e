-- Writes rows of `revocations` into one shard. A row takes effect unless a later revision of it is held, so that
-- writers may be slow, late or many: a stale "lifted" cannot remove a newer revocation, nor the other way round.
-- KEYS: rebuilding, followed. The rows' keys share their hash tag, and so their slot.
-- ARGV: nonce of the rebuild or "", its lease in ms, prefix of the rows' keys, new value of `followed` or "",
--       JSON array of id, held, expiry in ms per row (`held` as in redis_keys.revocation), each id once
-- Returns how many rows were written, and id and held of every row that is lifted here by a later revision than the one
-- that says it is in force: the row was read a moment too early, or Postgres has gone back. {-1} when the rebuild has
-- lost its nonce (a flush, or another rebuild): then nothing was written.
local nonce, lease, prefix, followed = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if nonce ~= "" then
  if redis.call("GET", KEYS[1]) ~= nonce then
    return { -1 }
  end
  redis.call("PEXPIRE", KEYS[1], lease)
end

local function revision(held)
  return tonumber(string.match(held, "^-?(%d+)")) or 0
end

local rows, keys, reply = cjson.decode(ARGV[5]), {}, { 0 }
local call, count = redis.call, #rows / 3
for row = 1, count do
  keys[row] = prefix .. rows[3 * row - 2]
end
local held = count > 0 and call("MGET", unpack(keys)) or {}
for row = 1, count do
  local old, new = held[row], rows[3 * row - 1]
  if old ~= new then
    if not old or revision(old) <= revision(new) then
      call("SET", keys[row], new, "PXAT", rows[3 * row])
      reply[1] = reply[1] + 1
    elseif string.byte(old) == 45 and string.byte(new) ~= 45 then
      reply[#reply + 1] = rows[3 * row - 2]
      reply[#reply + 1] = old
    end
  end
end
if followed ~= "" then
  redis.call("SET", KEYS[2], followed)
end
return reply
