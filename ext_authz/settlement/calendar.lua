-- When a period of the calendar ends, in UTC. Part of settle.lua; needs `floor`.
--
-- A period is named by its longest length in ms: up to a day all are equally long; weeks begin on Monday.

local DAY, WEEK, YEAR = 86400000, 604800000, 31622400000
local FIRST_MONDAY = 4 * DAY -- 5 January 1970
local MONTHS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local function new_year(year) -- days from 1970 to 1 January
  local before = year - 1
  return (year - 1970) * 365 + floor(before / 4) - floor(before / 100) + floor(before / 400) - 477
end

local function year_of(day)
  local year = 1970 + floor(day / 365.2425) -- off by one at most, near New Year
  if new_year(year) > day then return year - 1 end
  return new_year(year + 1) <= day and year + 1 or year
end

local function period_end(now, period)
  if period <= DAY then return now - now % period + period end
  if period == WEEK then return now - (now - FIRST_MONDAY) % WEEK + WEEK end
  local today = floor(now / DAY)
  local year = year_of(today)
  local day, next_year = new_year(year), new_year(year + 1)
  if period == YEAR then return next_year * DAY end
  for month = 1, 12 do
    day = day + MONTHS[month]
    if month == 2 then day = day + next_year - new_year(year) - 365 end
    if day > today then return day * DAY end
  end
end
