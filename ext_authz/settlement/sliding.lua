-- Sliding windows. Part of settle.lua; `values`, `now` and the like are from there.
--
-- Hits are kept in slices. A slice opens with a hit, takes in what comes within 1/32 of a window, and counts until a
-- whole window after its last hit: never more than the limit in any window, and few numbers to keep. Stored as
-- "~<written at, in ms> <age of the last slice's first hit>", then per slice " <age of its last hit> <used>".
--
-- One function that holds the others: a call without sliding windows need not make them.

local function sliding_windows()
  local SLICES = 32
  local counters, windows = {}, {}

  local function stored(key) -- { last, used, last, used, ..., oldest = index, total = used, first = of the last slice }
    local slices = windows[key]
    if slices then return slices end
    slices = { oldest = 1, total = 0, first = 0 }
    windows[key] = slices
    local value = values[key]
    if value and byte(value) == 126 then
      local numbers = string.gmatch(value, "%d+")
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

  function counters.try(key, limit, window, cost)
    local slices = stored(key)
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

  function counters.take(key, window, cost)
    local slices = windows[key]
    if now - slices.first < floor(window / SLICES) then
      slices[#slices - 1], slices[#slices] = now, slices[#slices] + cost
    else
      slices[#slices + 1] = now
      slices[#slices + 1] = cost
      slices.first = now
    end
    slices.total, slices.window = slices.total + cost, window
  end

  function counters.give_back(key, taken, amount, window) -- whether it still counts
    local slices, at = stored(key), 1
    while slices[at] and slices[at] < taken do at = at + 2 end
    if not slices[at] or slices[at + 1] < amount or taken + window <= now then return false end
    slices[at + 1], slices.total, slices.window = slices[at + 1] - amount, slices.total - amount, window
    return true
  end

  function counters.written(key) -- what to store, and until when
    local slices = windows[key]
    local numbers = { "~" .. now, now - slices.first }
    for at = slices.oldest, #slices, 2 do
      numbers[#numbers + 1] = now - slices[at]
      numbers[#numbers + 1] = slices[at + 1]
    end
    return table.concat(numbers, " "), slices[#slices - 1] + slices.window
  end

  return counters
end
