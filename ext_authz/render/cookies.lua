-- An application gets and sets only its own cookies: those that are called as it is, or by its name, a dot and more. The
-- others on this host are of other applications, or sessions of the console.
--
-- What stands in front of this: NAME.

local function is_own(cookie)
  local name = (cookie:match("^%s*([^=]*)") or ""):gsub("^__Host%-", ""):gsub("^__Secure%-", "")
  return name == NAME or name:sub(1, #NAME + 1) == NAME .. "."
end

local function values(headers, name)
  local found = {}
  for index = 0, headers:getNumValues(name) - 1 do
    found[#found + 1] = headers:getAtIndex(name, index)
  end
  return found
end

local function own_cookies(headers)
  local kept = {}
  for _, value in ipairs(values(headers, "cookie")) do
    for cookie in value:gmatch("[^;]+") do
      if is_own(cookie) then
        kept[#kept + 1] = cookie:match("%S.*"):match(".*%S") -- in one pass each, however many blanks it has
      end
    end
  end
  return kept
end

local function own_set(headers)
  local kept = {}
  for _, cookie in ipairs(values(headers, "set-cookie")) do
    if is_own(cookie) then
      kept[#kept + 1] = cookie
    end
  end
  return kept
end

-- Where a script of Envoy fails, all headers would pass: here none does then.
function envoy_on_request(handle)
  local headers = handle:headers()
  local done, kept = pcall(own_cookies, headers)
  headers:remove("cookie")
  if done and #kept > 0 then
    headers:add("cookie", table.concat(kept, "; "))
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local done, kept = pcall(own_set, headers)
  headers:remove("set-cookie")
  for _, cookie in ipairs(done and kept or {}) do
    headers:add("set-cookie", cookie)
  end
end
