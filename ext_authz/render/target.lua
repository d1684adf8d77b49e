-- Which model and version does a gRPC message name? Reported only where every reader of the message must find the same:
-- one message, uncompressed, nothing after it; each tag in its shortest form; no groups; what names model or version
-- there at most once, and as text. Of any other message it says nothing, and the authorizer refuses what names nothing.
--
-- What stands in front of this: SPACE, where the authorizer looks; NAMED, path of a call -> number of a field of its
-- message -> what the field names, "model" or "version".

local MOST_FIELDS = 4096 -- at the top of a message: a bound on the time that one message takes
local LONGEST_NAME = 128
local FRAME = 5 -- bytes in front of a message: whether it is compressed, and its length
local WINDOW = 512 -- bytes that are read at once: enough for a small message
local LONGEST_HEAD = 16 -- bytes that are read of a field: its tag, and its length or value

-- The number at `at`, what follows it, and whether it could be written shorter; nothing if it does not end in `most` bytes.
local function varint(text, at, most)
  local value, factor = 0, 1
  for index = at, at + most - 1 do
    local byte = text:byte(index)
    if byte == nil then
      return nil
    elseif byte < 128 then
      return value + byte * factor, index + 1, byte == 0 and index > at
    end
    value, factor = value + (byte - 128) * factor, factor * 128
  end
  return nil
end

-- Number of the field at `at`, whether it is text, and where its content begins and ends; nothing if that is not plain.
local function field(read, at, size)
  local head = read(at, math.min(LONGEST_HEAD, size - at))
  local tag, content, padded = varint(head, 1, 5)
  if tag == nil or padded or tag < 8 or tag >= 4294967296 then
    return nil
  end
  local kind, length, after = tag % 8, nil, content
  if kind == 0 then
    length, after = 0, select(2, varint(head, content, 10))
  elseif kind == 1 then
    length = 8
  elseif kind == 2 then
    length, after = varint(head, content, 5)
  elseif kind == 5 then
    length = 4
  end
  if length == nil or after == nil then
    return nil
  end
  local start = at + after - 1
  return (tag - kind) / 8, kind == 2, start, start + length
end

-- A value that is no name is passed on as `?`, which no name is either: bounded, and fit to travel.
local function name(read, start, stop)
  if start == stop then
    return ""
  end
  local text = stop - start <= LONGEST_NAME and read(start, stop - start) or "?"
  return text:find("[^!-~]") and "?" or text
end

-- Four bytes, the most significant first.
local function length_of(frame)
  local first, second, third, fourth = frame:byte(2, FRAME)
  return ((first * 256 + second) * 256 + third) * 256 + fourth
end

-- Reads bytes of a body; the first ones once.
local function reader(body, size)
  local first = size > 0 and body:getBytes(0, math.min(WINDOW, size)) or ""
  return function(at, length)
    return at + length <= #first and first:sub(at + 1, at + length) or body:getBytes(at, length)
  end
end

local function target(body, named)
  local size, at, found = body:length(), FRAME, {}
  local read = reader(body, size)
  local frame = size >= FRAME and read(0, FRAME)
  if not frame or frame:byte(1) ~= 0 or length_of(frame) ~= size - FRAME then
    return {}
  end
  for _ = 1, MOST_FIELDS do
    if at == size then
      return found
    end
    local number, is_text, start, stop = field(read, at, size)
    if number == nil or stop > size then
      return {}
    end
    local what = named[number]
    if what ~= nil then
      if not is_text or found[what] ~= nil then
        return {}
      end
      found[what] = name(read, start, stop)
    end
    at = stop
  end
  return {}
end

function envoy_on_request(handle)
  local named = NAMED[handle:headers():get(":path")]
  local body = named and handle:body()
  if body then
    for what, text in pairs(target(body, named)) do
      handle:streamInfo():dynamicMetadata():set(SPACE, what, text)
    end
  end
end
