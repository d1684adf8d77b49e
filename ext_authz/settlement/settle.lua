-- Settles one batch of checks, atomically: revocation, then limits (all or nothing), then the ledger event.
--
-- KEYS[1]  hash tag of the shard, "{tg0}"; every key of `flat` starts with it, so all of them share its slot
-- ARGV[1]  msgpack of `flat`, value by value, or as one array where Lua's stack could not hold so many (batch.py):
--          number of checks, of refusals, of returns, of keys; the keys, of which the first marks completeness;
--          per check    number of quota requests, five revocation ids as indices of keys (0 for none), iat,
--                       event ("" for none), then per quota request: key (as index), algorithm, limit, window in ms,
--                       burst, cost, dry_run
--          per refusal  outcome, event
--          per return   key (as index), algorithm, until, amount, window: taken here and refused by another shard
-- ARGV[2]  run_id of the Redis process that the caller believes to talk to
-- ARGV[3]  Redis' time in ms after which nobody waits for the answer any more
-- ARGV[4]  events that the ledger may hold
--
-- Returns msgpack of a flat array: Redis' time in ms, refusals not recorded (-1: too late, nothing was done), then per
-- check its outcome; of one that is revoked which of its five ids is (from 0); where its limits were read: index of the
-- limit that refused, retry after in ms (0: never), what remains of every limit (-1: a dry-run limit that would have
-- refused), and in how many ms it is full again.
--
-- Without checks it writes and takes away: a call that comes back shows that one with checks would, too.
--
-- Counters are read once and written once per call however many checks share them. A stored counter that another
-- policy, another algorithm or another clock left behind is cut to what the present limit allows, never trusted.
--
-- A call costs what it builds: no table per check, few closures, and text where Redis would print a number slowly.

local call, tonumber = redis.call, tonumber
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local sub, byte, format = string.sub, string.byte, string.format

local OK, REVOKED, LIMITED, INCOMPLETE, LEDGER_FULL, DRY_RUN_OVER = 0, 1, 2, 3, 4, 5
local OK_AS_TEXT = "0" -- Redis prints a number with 17 digits: 1 us
local FIXED_WINDOW, GCRA, SLIDING_WINDOW, CALENDAR = 0, 1, 2, 3
local NEVER = math.huge
local REFUSALS_SHARE = 0.9 -- of the ledger; the rest is kept for what is let through

local ledger_key = KEYS[1] .. ":events"
local time = call("TIME")
local now_us = time[1] * 1000000 + time[2]
local now = floor(now_us / 1000)
if now > tonumber(ARGV[3]) then return cmsgpack.pack({ now, -1 }) end

local flat = { cmsgpack.unpack(ARGV[1]) }
if type(flat[1]) == "table" then flat = flat[1] end
local checks, refusals, returns, keys = flat[1], flat[2], flat[3], flat[4]

-- 1. Read everything that any check needs.
local values
for first = 1, keys, 4000 do -- Lua's stack holds 8000
  local last = min(first + 3999, keys)
  local part = redis.pcall("MGET", unpack(flat, 4 + first, 4 + last))
  if part.err then -- a slot that is being migrated lets keys be read one by one only (cluster.py)
    if not string.find(part.err, "non local key", 1, true) then return part end
    for i = first, last do part[i - first + 1] = call("GET", flat[4 + i]) end
  end
  if first == 1 then values = part else for i = first, last do values[i] = part[i - first + 1] end end
end
local complete = values[1] == ARGV[2]
local ledger_max, depth = tonumber(ARGV[4]), call("XLEN", ledger_key)
if checks == 0 then
  call("SET", KEYS[1] .. ":alive", now, "PX", 60000)
  call("XDEL", ledger_key, call("XADD", ledger_key, "*", "e", "", "o", 0))
end

-- 2. Limits. A fixed window and a calendar period are stored as "<end in ms>:<used>", GCRA as the theoretical arrival
-- time in us. All by the index of the key: what counts now (used, arrival time), when a window ends, and by which
-- algorithm a counter was changed. Reading a limit takes nothing: it returns how long to wait (nil: it fits), the state
-- after taking, and when all is back. What it cuts to size is kept, or the wait that it returns would never end.
local state, ends, changed = {}, {}, {}
local sliding

-- Fixed window and calendar: gone when it ends; the next one begins with the next hit.
local function read_window(key)
  local window_end, used = ends[key], state[key]
  if window_end then return window_end, used end
  local value = values[key]
  if value and byte(value, 14) == 58 then
    window_end, used = tonumber(sub(value, 1, 13)), tonumber(sub(value, 15))
  end
  if not (window_end and used) then window_end, used = 0, 0 end
  ends[key], state[key] = window_end, used
  return window_end, used
end

local function try_window(key, limit, latest_end, cost)
  local window_end, used = read_window(key)
  if window_end <= now then
    window_end, used = latest_end, 0
  elseif window_end > latest_end then
    window_end = latest_end
    ends[key], changed[key] = window_end, FIXED_WINDOW
  end
  if used + cost <= limit then return nil, used + cost, window_end end
  return cost > limit and NEVER or window_end - now, used, window_end
end

-- GCRA: `burst` at once, then one per interval. The interval is rounded up, so rounding never grants a request.
local function try_gcra(key, interval, full, cost)
  local arrival = state[key] or tonumber(values[key] or 0) or 0
  if arrival < now_us then
    arrival = now_us
  elseif arrival > full then
    arrival = full
    state[key], changed[key] = full, GCRA
  end
  local after = arrival + cost * interval
  if after <= full then return nil, after end
  return full < now_us + cost * interval and NEVER or ceil((after - full) / 1000), arrival
end

-- include calendar.lua
-- include sliding.lua

-- Given back only while it certainly still counts: in the same window; under GCRA as long as the bucket has not been
-- full since. Anything else would grant what was never taken.
local p = 5 + keys
local returns_end = #flat
for i = returns_end - 5 * returns + 1, returns_end, 5 do
  local key, algorithm, expiry, amount, window = unpack(flat, i, i + 4)
  if algorithm == GCRA then
    local arrival = state[key] or tonumber(values[key] or 0) or 0
    if expiry * 1000 > now_us and arrival > now_us then state[key], changed[key] = arrival - amount, GCRA end
  elseif algorithm == SLIDING_WINDOW then
    sliding = sliding or sliding_windows()
    if sliding.give_back(key, expiry - window, amount, window) then changed[key] = algorithm end
  else
    local window_end, used = read_window(key)
    if window_end == expiry and window_end > now then
      state[key], changed[key] = max(min(used, 0), used - amount), algorithm -- below 0: a boost (quotas/boost.lua)
    end
  end
end

-- 3. Decide check by check; each sees what the earlier ones took.
local reply, r = { now, 0 }, 2
local states, window_ends, period_ends = {}, {}, nil

-- Reads the limits of the check at `p`, at their cost times `share`, into the reply; returns the longest wait (nil: all
-- fit), the limit that demands it, and whether a dry-run limit would have refused: of that one nothing is taken.
local function try(p, takes, share)
  local longest, by, dry_run_over = nil, -1, false
  local at, left = p + 8, r + 3
  for i = 1, takes do
    local key, algorithm, limit, window, cost = flat[at], flat[at + 1], flat[at + 2], flat[at + 3], flat[at + 5] * share
    local wait, after, back, remaining, reset
    if algorithm ~= GCRA then
      if algorithm == FIXED_WINDOW then
        wait, after, back = try_window(key, limit, now + window, cost)
      elseif algorithm == CALENDAR then
        period_ends = period_ends or {}
        period_ends[window] = period_ends[window] or period_end(now, window)
        wait, after, back = try_window(key, limit, period_ends[window], cost)
      else
        sliding = sliding or sliding_windows()
        wait, after, back = sliding.try(key, limit, window, cost)
      end
      window_ends[i], remaining, reset = back, max(0, limit - after), after > 0 and back - now or 0
    elseif limit < 1 then
      wait, after, remaining, reset = NEVER, 0, 0, 0
    else
      local interval = ceil(window * 1000 / limit)
      local full = now_us + max(1, flat[at + 4]) * interval
      wait, after = try_gcra(key, interval, full, cost)
      remaining, reset = floor((full - after) / interval), ceil((after - now_us) / 1000)
    end
    states[i] = after
    if wait and flat[at + 6] then
      states[i], dry_run_over = false, true
      if share > 0 then remaining = -1 end
    elseif wait and (not longest or wait > longest) then
      longest, by = wait, i - 1
    end
    reply[left + i], reply[left + takes + i] = remaining, reset
    at = at + 7
  end
  return longest, by, dry_run_over
end

for _ = 1, checks do
  local takes, issued_at, event = flat[p], flat[p + 6], flat[p + 7]
  local outcome, wait, by
  if event ~= "" and depth >= ledger_max then
    outcome = LEDGER_FULL
  elseif not complete and flat[p + 1] + flat[p + 2] + flat[p + 3] + flat[p + 4] + flat[p + 5] > 0 then
    outcome = INCOMPLETE
  else
    -- redis_keys.revocation: "-..." is lifted, "N:S" revokes what was issued up to S, anything else whatever was issued
    for i = 1, 5 do
      local held = values[flat[p + i]]
      if held and byte(held) ~= 45 and (tonumber(string.match(held, ":(%d+)$")) or NEVER) >= issued_at then
        outcome, by = REVOKED, i - 1
        reply[r + 2] = by
        break
      end
    end
  end
  if outcome then
    reply[r + 1] = outcome
    r = r + (by and 2 or 1)
  else
    local dry_run_over
    wait, by, dry_run_over = try(p, takes, 1)
    outcome = wait and LIMITED or dry_run_over and DRY_RUN_OVER or OK
    if wait then
      try(p, takes, 0) -- what remains of the others is answered as it stays: nothing was taken
    else
      for i = 1, takes do
        local at = p + 1 + 7 * i
        if states[i] and flat[at + 5] > 0 then
          local key, algorithm = flat[at], flat[at + 1]
          if algorithm == SLIDING_WINDOW then
            sliding.take(key, flat[at + 3], flat[at + 5])
          else
            state[key], ends[key] = states[i], algorithm ~= GCRA and window_ends[i] or nil
          end
          changed[key] = algorithm
        end
      end
    end
    reply[r + 1], reply[r + 2], reply[r + 3] = outcome, by, wait ~= NEVER and wait or 0
    r = r + 3 + takes + takes
  end
  if event ~= "" and outcome ~= INCOMPLETE and outcome ~= LEDGER_FULL then
    if outcome == OK then
      call("XADD", ledger_key, "*", "e", event, "o", OK_AS_TEXT)
    elseif outcome == LIMITED then
      local limit_key = flat[4 + flat[p + 8 + 7 * by]]
      call("XADD", ledger_key, "*", "e", event, "o", outcome, "l", sub(limit_key, #KEYS[1] + 4)) -- without ":l:"
    elseif outcome == REVOKED then
      call("XADD", ledger_key, "*", "e", event, "o", outcome, "r", by)
    else
      call("XADD", ledger_key, "*", "e", event, "o", outcome)
    end
    depth = depth + 1
  end
  p = p + 8 + 7 * takes
end

-- 4. Write back what changed, and the refusals that were decided without Redis.
for key, algorithm in pairs(changed) do
  local value, expiry
  if algorithm == GCRA then
    value, expiry = format("%.0f", state[key]), ceil(state[key] / 1000) -- one that was not written here may exceed "%d"
  elseif algorithm == SLIDING_WINDOW then
    value, expiry = sliding.written(key)
  else
    value, expiry = format("%d:%d", ends[key], state[key]), ends[key]
  end
  call("SET", flat[4 + key], value, "PXAT", format("%d", expiry))
end
for _ = 1, refusals do
  if depth < ledger_max * REFUSALS_SHARE then
    call("XADD", ledger_key, "*", "e", flat[p + 1], "o", flat[p])
    depth = depth + 1
  else
    reply[2] = reply[2] + 1
  end
  p = p + 2
end
return cmsgpack.pack(reply)
