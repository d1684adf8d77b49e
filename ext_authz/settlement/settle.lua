-- Settles one batch of checks, atomically: revocation, then limits (all or nothing), then the ledger event.
--
-- KEYS[1]  hash tag of the shard, "{tg0}"; every key below starts with it, so all of them share its slot
-- ARGV[1]  msgpack of {checks, refusals, returns}, all flat arrays (batch.py writes them):
--          per check    number of takes, five revocation ids ("" for none), iat, event ("" for none),
--                       then per take: key, algorithm, limit, window in ms, burst, cost, shadow
--          per refusal  outcome, event
--          per return   key, algorithm, until, amount, window: what a check took here and another shard refused
-- ARGV[2]  run_id of the Redis process that the caller believes to talk to
-- ARGV[3]  Redis' time in ms after which nobody waits for the answer any more
-- ARGV[4]  events that the ledger may hold
--
-- Returns msgpack of a flat array: Redis' time in ms, refusals not recorded (-1: too late, nothing was done), then per
-- check its outcome, and unless nobody looked at its limits also: index of the limit that refused, retry after in ms (0: never),
-- what remains of every limit (-1: a shadow limit that would have refused), and in how many ms it is full again.
--
-- Counters are read once and written once per call however many checks share them. A stored counter that another
-- policy, another algorithm or another clock left behind is cut to what the present limit allows, never trusted.

local call, tonumber, unpack = redis.call, tonumber, unpack
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local sub, byte, gmatch, format, concat = string.sub, string.byte, string.gmatch, string.format, table.concat

local OK, REVOKED, LIMITED, INCOMPLETE, LEDGER_FULL, SHADOW_OVER = 0, 1, 2, 3, 4, 5
local FIXED_WINDOW, GCRA, SLIDING_WINDOW, CALENDAR = 0, 1, 2, 3
local NEVER = math.huge
local REFUSALS_SHARE = 0.9 -- of the ledger; the rest is kept for what is let through

local marker_key, revocation_prefix = KEYS[1] .. ":complete", KEYS[1] .. ":r:"
local counter_prefix, ledger_key = KEYS[1] .. ":l:", KEYS[1] .. ":events"

local time = call("TIME")
local now_us = time[1] * 1000000 + time[2]
local now = floor(now_us / 1000)
if now > tonumber(ARGV[3]) then return cmsgpack.pack({ now, -1 }) end

local batch = cmsgpack.unpack(ARGV[1])
local checks, refusals, returns = batch[1], batch[2], batch[3]
local size = #checks

-- 1. Read everything that any check needs: one MGET. Slot 0 of `values` stands for "no such id".
local keys, count = { marker_key }, 1
local revocation_at, counter_at = { [""] = 0 }, {}
local p = 1
while p < size do
  local takes = checks[p]
  for i = p + 1, p + 5 do
    local id = checks[i]
    if not revocation_at[id] then
      count = count + 1
      keys[count] = revocation_prefix .. id
      revocation_at[id] = count
    end
  end
  p = p + 8
  for _ = 1, takes do
    local key = checks[p]
    if not counter_at[key] then
      count = count + 1
      keys[count] = counter_prefix .. key
      counter_at[key] = count
    end
    p = p + 7
  end
end
for i = 1, #returns, 5 do
  count = count + 1
  keys[count] = counter_prefix .. returns[i]
  counter_at[returns[i]] = count
end

local values = { [0] = false }
for first = 1, count, 4000 do -- Lua's stack holds 8000
  local part = call("MGET", unpack(keys, first, min(first + 3999, count)))
  for i = 1, #part do values[first + i - 1] = part[i] end
end
local complete = values[1] == ARGV[2]
local ledger_max, depth = tonumber(ARGV[4]), call("XLEN", ledger_key)

-- 2. Limits.
-- include calendar.lua
-- include counters.lua

for i = 1, #returns, 5 do give_back(returns[i], returns[i + 1], returns[i + 2], returns[i + 3], returns[i + 4]) end

-- 3. Decide check by check; each sees what the earlier ones took.
local reply, r = { now, 0 }, 2
local states, window_ends, remaining, resets, period_ends = {}, {}, {}, {}, {}

-- Looks at all takes of a check, at their cost times `share`; returns the longest wait (nil: all fit), the limit that
-- demands it, and whether a shadow limit would have refused: of that one nothing is taken, and -1 remains.
local function look(takes, first, share)
  local longest, by, shadow_over = nil, -1, false
  for i = 1, takes do
    local key, algorithm, limit, window, cost =
      checks[first], checks[first + 1], checks[first + 2], checks[first + 3], checks[first + 5] * share
    local wait, state, back
    if algorithm ~= GCRA then
      if algorithm == FIXED_WINDOW then
        wait, state, back = look_at_window(key, limit, now + window, cost)
      elseif algorithm == CALENDAR then
        period_ends[window] = period_ends[window] or period_end(now, window)
        wait, state, back = look_at_window(key, limit, period_ends[window], cost)
      else
        wait, state, back = look_at_slices(key, limit, window, cost)
      end
      window_ends[i], remaining[i], resets[i] = back, max(0, limit - state), state > 0 and back - now or 0
    elseif limit < 1 then
      wait, state, remaining[i], resets[i] = NEVER, 0, 0, 0
    else
      local interval, burst = ceil(window * 1000 / limit), max(1, checks[first + 4])
      wait, state = look_at_gcra(key, interval, burst, cost)
      remaining[i], resets[i] = floor((now_us + burst * interval - state) / interval), ceil((state - now_us) / 1000)
    end
    states[i] = state
    if wait and checks[first + 6] then
      states[i], remaining[i], shadow_over = false, -1, true
    elseif wait and (not longest or wait > longest) then
      longest, by = wait, i - 1
    end
    first = first + 7
  end
  return longest, by, shadow_over
end

local function take(takes, first)
  for i = 1, takes do
    if states[i] and checks[first + 5] > 0 then
      local key, algorithm = checks[first], checks[first + 1]
      if algorithm == GCRA then
        arrivals[key] = states[i]
      elseif algorithm == SLIDING_WINDOW then
        take_from_slices(key, checks[first + 3], checks[first + 5])
      else
        used[key], ends[key] = states[i], window_ends[i]
      end
      mark_changed(key, algorithm)
    end
    first = first + 7
  end
end

local function not_before(id, issued_at) -- a value that is no number revokes
  local value = values[revocation_at[id]]
  return value and (tonumber(value) or NEVER) >= issued_at
end

local function verdict(at, takes, recorded)
  if recorded and depth >= ledger_max then return LEDGER_FULL end
  local token, session, user, client, issuer, issued_at =
    checks[at + 1], checks[at + 2], checks[at + 3], checks[at + 4], checks[at + 5], checks[at + 6]
  if not complete and token .. session .. user .. client .. issuer ~= "" then return INCOMPLETE end
  if values[revocation_at[token]] or values[revocation_at[session]] or not_before(user, issued_at)
    or not_before(client, issued_at) or not_before(issuer, issued_at) then return REVOKED end
  local wait, by, shadow_over = look(takes, at + 8, 1)
  if wait then
    look(takes, at + 8, 0) -- what remains of the others is told as it stays: nothing was taken
    return LIMITED, wait, by
  end
  take(takes, at + 8)
  return shadow_over and SHADOW_OVER or OK, 0, -1
end

p = 1
while p < size do
  local takes, event = checks[p], checks[p + 7]
  local outcome, wait, by = verdict(p, takes, event ~= "")
  reply[r + 1] = outcome
  if wait then
    reply[r + 2], reply[r + 3] = by, wait == NEVER and 0 or wait
    r = r + 3
    for i = 1, takes do reply[r + i], reply[r + takes + i] = remaining[i], resets[i] end
    r = r + takes + takes
  else
    r = r + 1
  end
  if outcome ~= INCOMPLETE and outcome ~= LEDGER_FULL and event ~= "" then
    call("XADD", ledger_key, "*", "e", event, "o", outcome)
    depth = depth + 1
  end
  p = p + 8 + 7 * takes
end

-- 4. Write back what changed, and the refusals that were decided without Redis.
for i = 1, changes do
  local value, expiry = written(changed[i], algorithm_of[changed[i]])
  call("SET", counter_prefix .. changed[i], value, "PXAT", expiry)
end
for i = 1, #refusals, 2 do
  if depth < ledger_max * REFUSALS_SHARE then
    call("XADD", ledger_key, "*", "e", refusals[i + 1], "o", refusals[i])
    depth = depth + 1
  else
    reply[2] = reply[2] + 1
  end
end
return cmsgpack.pack(reply)
