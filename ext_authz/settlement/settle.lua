-- Settles one batch of checks, atomically: revocation, then limits (all or nothing), then the ledger event.
--
-- KEYS[1]  hash tag of the shard, "{tg0}"; every key below starts with it, so all of them share its slot
-- ARGV[1]  msgpack of {checks, refusals, returns}, all flat arrays (batch.py writes them):
--          per check    number of takes, five revocation ids ("" for none), iat, event ("" for none),
--                       then per take: key, algorithm, limit, window in ms, burst, cost, dry_run
--          per refusal  outcome, event
--          per return   key, algorithm, until, amount, window: what a check took here and another shard refused
-- ARGV[2]  run_id of the Redis process that the caller believes to talk to
-- ARGV[3]  Redis' time in ms after which nobody waits for the answer any more
-- ARGV[4]  events that the ledger may hold
--
-- Returns msgpack of a flat array: Redis' time in ms, refusals not recorded (-1: too late, nothing was done), then per
-- check its outcome; of one that is revoked which of its five ids hit (from 0); where its limits were looked at: index of
-- the limit that refused, retry after in ms (0: never), what remains of every limit (-1: a dry-run limit that would have
-- refused), and in how many ms it is full again.
--
-- Without checks it writes and takes away: a call that comes back shows that one with checks would, too.
--
-- Counters are read once and written once per call however many checks share them. A stored counter that another
-- policy, another algorithm or another clock left behind is cut to what the present limit allows, never trusted.

local call, tonumber, unpack = redis.call, tonumber, unpack
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local sub, byte, match, format = string.sub, string.byte, string.match, string.format

local OK, REVOKED, LIMITED, INCOMPLETE, LEDGER_FULL, DRY_RUN_OVER = 0, 1, 2, 3, 4, 5
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
  local last = min(first + 3999, count)
  local part = redis.pcall("MGET", unpack(keys, first, last))
  if part.err then -- a slot that is being migrated lets keys be read one by one only (migration.py)
    if not string.find(part.err, "non local key", 1, true) then return part end
    for i = first, last do part[i - first + 1] = call("GET", keys[i]) end
  end
  for i = 1, last - first + 1 do values[first + i - 1] = part[i] end
end
local complete = values[1] == ARGV[2]
local ledger_max, depth = tonumber(ARGV[4]), call("XLEN", ledger_key)
if size == 0 then
  call("SET", KEYS[1] .. ":alive", now, "PX", 60000)
  call("XDEL", ledger_key, call("XADD", ledger_key, "*", "e", "", "o", 0))
end

-- 2. Limits. A fixed window and a calendar period are stored as "<end in ms>:<used>", GCRA as the theoretical arrival
-- time in us. What looks takes nothing: it returns how long to wait (nil: it fits), the state after taking, and when
-- all is back. What it cuts to size is kept, or the wait that it tells would never end.
local used, ends, arrivals, sliding = {}, {}, {}, nil
local changed, changes, algorithm_of = {}, 0, {}

local function mark_changed(key, algorithm)
  if not algorithm_of[key] then
    changes = changes + 1
    changed[changes] = key
  end
  algorithm_of[key] = algorithm
end

-- Fixed window and calendar: gone when it ends; the next one begins with the next hit.

local function stored_window(key)
  local window_end, hits = ends[key], used[key]
  if window_end then return window_end, hits end
  local value = values[counter_at[key]]
  if value and byte(value, 14) == 58 then
    window_end, hits = tonumber(sub(value, 1, 13)), tonumber(sub(value, 15))
  end
  if not (window_end and hits) then window_end, hits = 0, 0 end
  ends[key], used[key] = window_end, hits
  return window_end, hits
end

local function look_at_window(key, limit, latest_end, cost)
  local window_end, hits = stored_window(key)
  if window_end <= now then
    window_end, hits = latest_end, 0
  elseif window_end > latest_end then
    window_end = latest_end
    ends[key] = window_end
    mark_changed(key, FIXED_WINDOW)
  end
  if hits + cost <= limit then return nil, hits + cost, window_end end
  return cost > limit and NEVER or window_end - now, hits, window_end
end

-- GCRA: `burst` at once, then one per interval. The interval is rounded up, so rounding never grants a request.

local function stored_arrival(key)
  local arrival = arrivals[key]
  if not arrival then
    arrival = tonumber(values[counter_at[key]] or 0) or 0
    arrivals[key] = arrival
  end
  return arrival
end

local function look_at_gcra(key, interval, burst, cost)
  local arrival, full = stored_arrival(key), now_us + burst * interval
  if arrival < now_us then
    arrival = now_us
  elseif arrival > full then
    arrival = full
    arrivals[key] = full
    mark_changed(key, GCRA)
  end
  local after = arrival + cost * interval
  if after <= full then return nil, after end
  return cost > burst and NEVER or ceil((after - full) / 1000), arrival
end

-- include calendar.lua
-- include sliding.lua

-- Given back only while it certainly still counts: in the same window; under GCRA as long as the bucket has not been
-- full since. Anything else would grant what was never taken.
for i = 1, #returns, 5 do
  local key, algorithm, expiry, amount, window = unpack(returns, i, i + 4)
  if algorithm == GCRA then
    local arrival = stored_arrival(key)
    if expiry * 1000 > now_us and arrival > now_us then
      arrivals[key] = arrival - amount
      mark_changed(key, algorithm)
    end
  elseif algorithm == SLIDING_WINDOW then
    sliding = sliding or sliding_windows()
    if sliding.give_back(key, expiry - window, amount, window) then mark_changed(key, algorithm) end
  else
    local window_end, hits = stored_window(key)
    if window_end == expiry and window_end > now then
      used[key] = max(0, hits - amount)
      mark_changed(key, algorithm)
    end
  end
end

-- 3. Decide check by check; each sees what the earlier ones took.
local reply, r = { now, 0 }, 2
local states, window_ends, remaining, resets, period_ends = {}, {}, {}, {}, {}

-- Looks at all takes of a check, at their cost times `share`; returns the longest wait (nil: all fit), the limit that
-- demands it, and whether a dry-run limit would have refused: of that one nothing is taken, and -1 remains.
local function look(takes, first, share)
  local longest, by, dry_run_over = nil, -1, false
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
        sliding = sliding or sliding_windows()
        wait, state, back = sliding.look(key, limit, window, cost)
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
      states[i], dry_run_over = false, true
      if share > 0 then remaining[i] = -1 end
    elseif wait and (not longest or wait > longest) then
      longest, by = wait, i - 1
    end
    first = first + 7
  end
  return longest, by, dry_run_over
end

local function take(takes, first)
  for i = 1, takes do
    if states[i] and checks[first + 5] > 0 then
      local key, algorithm = checks[first], checks[first + 1]
      if algorithm == GCRA then
        arrivals[key] = states[i]
      elseif algorithm == SLIDING_WINDOW then
        sliding.take(key, checks[first + 3], checks[first + 5])
      else
        used[key], ends[key] = states[i], window_ends[i]
      end
      mark_changed(key, algorithm)
    end
    first = first + 7
  end
end

-- Which of the five ids is revoked, if any (redis_keys.revocation): what begins with "-" is lifted, "N:S" hits what was
-- issued up to S, anything else hits whatever was issued.
local function revoked_by(at)
  local issued_at = checks[at + 6]
  for i = 1, 5 do
    local held = values[revocation_at[checks[at + i]]]
    if held and byte(held) ~= 45 and (tonumber(match(held, ":(%d+)$")) or NEVER) >= issued_at then return i - 1 end
  end
end

local function verdict(at, takes, recorded)
  if recorded and depth >= ledger_max then return LEDGER_FULL end
  if not complete and table.concat(checks, "", at + 1, at + 5) ~= "" then return INCOMPLETE end
  local id = revoked_by(at)
  if id then return REVOKED, nil, id end
  local wait, by, dry_run_over = look(takes, at + 8, 1)
  if wait then
    look(takes, at + 8, 0) -- what remains of the others is told as it stays: nothing was taken
    return LIMITED, wait, by
  end
  take(takes, at + 8)
  return dry_run_over and DRY_RUN_OVER or OK, 0, -1
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
  elseif outcome == REVOKED then
    reply[r + 2] = by
    r = r + 2
  else
    r = r + 1
  end
  if outcome ~= INCOMPLETE and outcome ~= LEDGER_FULL and event ~= "" then
    if outcome == LIMITED then
      call("XADD", ledger_key, "*", "e", event, "o", outcome, "l", checks[p + 8 + 7 * by])
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
for i = 1, changes do
  local key = changed[i]
  local algorithm = algorithm_of[key]
  if algorithm == GCRA then
    call("SET", counter_prefix .. key, format("%.0f", arrivals[key]), "PXAT", ceil(arrivals[key] / 1000))
  elseif algorithm == SLIDING_WINDOW then
    local value, expiry = sliding.written(key)
    call("SET", counter_prefix .. key, value, "PXAT", expiry)
  else
    call("SET", counter_prefix .. key, ends[key] .. ":" .. used[key], "PXAT", ends[key])
  end
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
