-- When a period of the calendar ends, in UTC. Part of settle.lua; needs `floor` and `min`.
--
-- A period is named by its longest length in ms: up to a day all are equally long; weeks begin on Monday. A month that
-- begins on another day than the 1st has one ms more for each day between them, and ends on the last day of a month that
-- is too short.
-- One function that holds the others: what a call does not need it need not make.

local function period_end(now, period)
  local DAY, WEEK, MONTH, YEAR = 86400000, 604800000, 2678400000, 31622400000
  local FIRST_MONDAY = 345600000 -- 5 January 1970
  if period <= DAY then return now - now % period + period end
  if period == WEEK then return now - (now - FIRST_MONDAY) % WEEK + WEEK end

  local function new_year(year) -- days from 1970 to 1 January
    local before = year - 1
    return (year - 1970) * 365 + floor(before / 4) - floor(before / 100) + floor(before / 400) - 477
  end

  local today = floor(now / DAY)
  local year = 1970 + floor(today / 365.2425) -- off by one at most, near New Year
  if new_year(year) > today then
    year = year - 1
  elseif new_year(year + 1) <= today then
    year = year + 1
  end
  local day, next_year = new_year(year), new_year(year + 1)
  if period == YEAR then return next_year * DAY end
  local february, days_after_first = next_year - day - 337, period - MONTH
  for _, days in ipairs({ 31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }) do
    local begins = day + min(days_after_first, days - 1)
    if begins > today then return begins * DAY end
    day = day + days
  end
  return (day + days_after_first) * DAY -- in January
end
