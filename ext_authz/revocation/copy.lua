-- The copy of the revocations in one shard of Redis. ARGV[1] names the operation, the others are its arguments.
local call = redis.call
local operations = {}

local function info(section, pattern)
  return string.match(call("INFO", section), pattern)
end

local function process()
  return info("server", "run_id:(%w+)"), info("replication", "master_replid:(%w+)"),
    info("memory", "maxmemory_policy:([%w-]+)")
end

-- This Redis process and what it claims to hold.
-- KEYS: hash tag, complete, followed
-- Returns run_id, replication id, eviction policy, and the values of both keys ("" if there is none).
function operations.status()
  local run_id, lineage, eviction = process()
  return { run_id, lineage, eviction, call("GET", KEYS[2]) or "", call("GET", KEYS[3]) or "" }
end

-- Begins a rebuild, unless another one is in progress or has just ended.
-- KEYS: complete, rebuilding
-- ARGV: nonce, lease in ms, marker that was found invalid, nonce of the caller's last rebuild (may be replaced)
-- Returns 1 or 0.
function operations.begin()
  if (call("GET", KEYS[1]) or "") ~= ARGV[4] then
    return 0
  end
  local other = call("GET", KEYS[2])
  if other and other ~= ARGV[5] then
    return 0
  end
  call("SET", KEYS[2], ARGV[2], "PX", ARGV[3])
  call("DEL", KEYS[1])
  return 1
end

-- Ends a rebuild: marks this process as complete, if it is still the one that was found at the start, with the same
-- history, and the nonce is there: nothing can have been lost in between.
-- KEYS: complete, rebuilding, followed. ARGV: nonce, run_id, replication id, value of `followed`
-- Returns 1 or 0.
function operations.finish()
  redis.replicate_commands() -- Redis 6: lets a script write after INFO
  local run_id, lineage, eviction = process()
  if call("GET", KEYS[2]) ~= ARGV[2] then
    return 0
  end
  call("DEL", KEYS[2])
  if run_id ~= ARGV[3] or lineage ~= ARGV[4] or eviction ~= "noeviction" then
    return 0
  end
  call("SET", KEYS[1], ARGV[3])
  call("SET", KEYS[3], ARGV[5])
  return 1
end

-- Removes a row, if what is held of it is still what was found. KEYS: revocation. ARGV: held
function operations.forget()
  if call("GET", KEYS[1]) == ARGV[2] then
    call("DEL", KEYS[1])
  end
end

local function revision(held)
  return tonumber(string.match(held, "^-?(%d+)")) or 0
end

-- Writes rows. A row takes effect unless a later revision of it is held, so that writers may be slow, late or many: a
-- stale "lifted" cannot remove a newer revocation, nor the other way round.
-- KEYS: rebuilding, followed. The rows' keys share their hash tag, and so their slot.
-- ARGV: nonce of the rebuild or "", its lease in ms, prefix of the rows' keys, new value of `followed` or "",
--       JSON array of id, held, expiry in ms per row (`held` as in redis_keys.revocation), each id once
-- Returns how many rows were written, and id and held of every row that is lifted here by a later revision than the one
-- that says it is in force: the row was read too early, or Postgres was restored. {-1} when the rebuild has
-- lost its nonce (a flush, or another rebuild): then nothing was written.
function operations.write()
  local nonce, lease, prefix, followed = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  if nonce ~= "" then
    if call("GET", KEYS[1]) ~= nonce then
      return { -1 }
    end
    call("PEXPIRE", KEYS[1], lease)
  end
  local rows, keys, reply = cjson.decode(ARGV[6]), {}, { 0 }
  local count = #rows / 3
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
    call("SET", KEYS[2], followed)
  end
  return reply
end

return operations[ARGV[1]]()
