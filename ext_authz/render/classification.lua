-- Does an inference ask for a classification? Triton divides by the size of a value to give one, and a text has none: with
-- one such output of text, one request ends it (SIGFPE). What Triton passes to models does not show it, so it is looked
-- for here. A call that has arrived as a whole is refused; in a stream, which has not, the word is made unknown, and what
-- is no message becomes zeros.

local ASKED = "classification"
local IN_MESSAGE = { 6, 2, 1 } -- fields of ModelInferRequest: outputs, their parameters, the key
local MOST_FIELDS = 65536 -- in a message: a bound on the time that one takes
local FRAME = 5 -- bytes in front of a message: whether it is compressed, and its length
local NOT_SERVED = "an output asks for a classification, which is not served here: rank the values of the output"
local NO_MESSAGE = "the message cannot be read as a ModelInferRequest of at most " .. MOST_FIELDS .. " fields"
local CALLS = {
  ["/inference.GRPCInferenceService/ModelInfer"] = "message",
  ["/inference.GRPCInferenceService/ModelStreamInfer"] = "stream",
}

local function asks_in_json(text)
  if text:find("\\u00", 1, true) then
    text = text:gsub("\\u00([67]%x)", function(code)
      return string.char(tonumber(code, 16))
    end)
  end
  local first, last = nil, 0
  repeat
    first, last = text:find('"' .. ASKED .. '"', last + 1, true)
  until not first or text:find("^%s*:", last + 1)
  return first ~= nil
end

-- Bytes from buffers, of which `next_buffer` gives one after the other; `at` counts those of all.
local function source(next_buffer)
  return { next_buffer = next_buffer, at = 0, before = 0, size = 0 }
end

-- Whether there is a byte; it is in `buffer` then.
local function has_more(from)
  while from.at == from.before + from.size do
    local buffer = not from.ended and from.next_buffer()
    from.ended = not buffer
    if from.ended then
      return false
    end
    from.buffer, from.before, from.size = buffer, from.before + from.size, buffer:length()
  end
  return true
end

local function byte(from, stop)
  if from.at >= stop or not has_more(from) then
    return nil
  end
  from.at = from.at + 1
  return from.buffer:getBytes(from.at - from.before - 1, 1):byte()
end

-- Passes over what is before `stop`; with `blank`, that becomes zeros, which are no message.
local function skip(from, stop, blank)
  while from.at < stop and has_more(from) do
    local start, last = from.at - from.before, math.min(stop - from.before, from.size)
    if blank then
      local head, tail = from.buffer:getBytes(0, start), from.buffer:getBytes(last, from.size - last)
      from.buffer:setBytes(head .. ("\0"):rep(last - start) .. tail)
    end
    from.at = from.before + last
  end
end

-- As protobuf reads a number of 32 bits: longer than needed, too; what is beyond 32 bits is lost.
local function varint(from, stop)
  local value, factor = 0, 1
  for _ = 1, 10 do
    local part = byte(from, stop)
    if part == nil then
      return nil
    end
    value, factor = (value + part % 128 * factor) % 4294967296, factor * 128 % 4294967296
    if part < 128 then
      return value
    end
  end
  return nil
end

-- The word's last byte is changed where it is in a buffer that has not been passed on.
local function is_asked(from, stop)
  if stop - from.at ~= #ASKED then
    return false
  end
  for index = 1, #ASKED do
    if byte(from, stop) ~= ASKED:byte(index) then
      return false
    end
  end
  local last = from.at - from.before
  from.buffer:setBytes(from.buffer:getBytes(0, last - 1) .. "N" .. from.buffer:getBytes(last, from.size - last))
  return true
end

-- Whether what is left before `stop` asks; nil if it is no message.
local function walk(from, stop, depth, count)
  local asks = false
  while from.at < stop do
    local tag = varint(from, stop)
    local kind = tag and tag % 8
    local length = kind == 1 and 8 or kind == 5 and 4 or kind == 2 and varint(from, stop) or kind == 0 and 0
    count.fields = count.fields + 1
    if not length or from.at + length > stop or count.fields > MOST_FIELDS then
      return nil
    end
    local last = from.at + length
    if kind == 0 then
      varint(from, stop)
    elseif kind == 2 and (tag - 2) / 8 == IN_MESSAGE[depth] then
      local inner = depth == #IN_MESSAGE and is_asked(from, last)
      if depth < #IN_MESSAGE then
        inner = walk(from, last, depth + 1, count)
      end
      if inner == nil then
        return nil
      end
      asks = asks or inner
    end
    skip(from, last)
  end
  return asks
end

-- What is wrong with some message, if anything is.
local function wrong_in_frames(next_buffer)
  local from, wrong = source(next_buffer), nil
  while has_more(from) do
    local length = 0
    for index = 1, FRAME do
      local part = byte(from, math.huge) or 0
      length = index > 1 and length * 256 + part or 0
    end
    local stop = from.at + length
    local asks = walk(from, stop, 1, { fields = 0 })
    skip(from, stop, asks == nil)
    wrong = wrong or asks and NOT_SERVED or asks == nil and NO_MESSAGE or nil
  end
  return wrong
end

local function wrong_over_rest(handle)
  local body = handle:body()
  return body and asks_in_json(body:getBytes(0, body:length())) and NOT_SERVED or nil
end

-- Of a call that waits here; the messages of a stream are changed as they go by.
local function wrong_over_grpc(handle, path)
  local call = CALLS[path]
  if call == "stream" then
    wrong_in_frames(handle:bodyChunks())
  end
  local body = call == "message" and handle:body()
  if not body then
    return nil
  end
  local left = body
  return wrong_in_frames(function()
    local buffer = left
    left = nil
    return buffer
  end)
end
