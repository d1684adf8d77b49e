-- The four ways to count. Part of settle.lua, between its steps 1 and 3; `values`, `now` and the like are from there.
--
-- Stored are: of a fixed window and of a calendar period "<end in ms>:<used>"; of GCRA the theoretical arrival time in
-- us; of a sliding window "~<written at, in ms> <age of the last slice's first hit>", then per slice, oldest first,
-- " <age of its last hit> <used>".
--
-- What looks takes nothing: it returns how long to wait (nil: it fits), the state after taking, and when all is back.
-- What it cuts to size is kept, or the wait that it tells would never end.

local used, ends, arrivals, windows_of_slices = {}, {}, {}, {}
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

-- Sliding window: hits are kept in slices. A slice opens with a hit, takes in what comes within 1/32 of a window, and
-- counts until a whole window after its last hit: never more than the limit in any window, and few numbers to keep.

local SLICES = 32

local function stored_slices(key) -- { last, used, last, used, ..., oldest = index, total = used, first = of the last slice }
  local slices = windows_of_slices[key]
  if slices then return slices end
  slices = { oldest = 1, total = 0, first = 0 }
  windows_of_slices[key] = slices
  local value = values[counter_at[key]]
  if value and byte(value) == 126 then
    local numbers = gmatch(value, "%d+")
    local written = tonumber(numbers())
    slices.first = min(now, written - numbers())
    for age in numbers do
      local hits = tonumber(numbers())
      slices[#slices + 1] = min(now, written - age)
      slices[#slices + 1] = hits
      slices.total = slices.total + hits
    end
  end
  return slices
end

local function look_at_slices(key, limit, window, cost)
  local slices = stored_slices(key)
  local at = slices.oldest
  while slices[at] and slices[at] + window <= now do
    slices.total = slices.total - slices[at + 1]
    at = at + 2
  end
  slices.oldest = at
  local total, back = slices.total, (slices[#slices - 1] or 0) + window
  if total + cost <= limit then return nil, total + cost, cost > 0 and now + window or back end
  if cost > limit then return NEVER, total, back end
  local excess = total + cost - limit
  while excess > 0 do
    excess = excess - slices[at + 1]
    at = at + 2
  end
  return slices[at - 2] + window - now, total, back
end

local function take_from_slices(key, window, cost)
  local slices = windows_of_slices[key]
  slices.window = window
  if now - slices.first < floor(window / SLICES) then
    slices[#slices - 1], slices[#slices] = now, slices[#slices] + cost
  else
    slices[#slices + 1] = now
    slices[#slices + 1] = cost
    slices.first = now
  end
  slices.total = slices.total + cost
end

-- Given back is only what certainly still counts: in the same window; under GCRA as long as the bucket has not been
-- full since; in the slice that it is in. Anything else would grant what was never taken.

local function give_back(key, algorithm, expiry, amount, window)
  if algorithm == GCRA then
    local arrival = stored_arrival(key)
    if arrival < expiry * 1000 or expiry * 1000 <= now_us then return end
    arrivals[key] = arrival - amount
  elseif algorithm == SLIDING_WINDOW then
    local slices, at = stored_slices(key), 1
    while slices[at] and slices[at] < expiry - window do at = at + 2 end
    if expiry <= now or not slices[at] or slices[at + 1] < amount then return end
    slices[at + 1], slices.total, slices.window = slices[at + 1] - amount, slices.total - amount, window
  else
    local window_end, hits = stored_window(key)
    if window_end ~= expiry or window_end <= now then return end
    used[key] = max(0, hits - amount)
  end
  mark_changed(key, algorithm)
end

-- What to store, and until when.
local function written(key, algorithm)
  if algorithm == GCRA then return format("%.0f", arrivals[key]), ceil(arrivals[key] / 1000) end
  if algorithm ~= SLIDING_WINDOW then return ends[key] .. ":" .. used[key], ends[key] end
  local slices = windows_of_slices[key]
  local numbers = { "~" .. now, now - slices.first }
  for at = slices.oldest, #slices, 2 do
    numbers[#numbers + 1] = now - slices[at]
    numbers[#numbers + 1] = slices[at + 1]
  end
  return concat(numbers, " "), slices[#slices - 1] + slices.window
end
