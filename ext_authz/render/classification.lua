-- Does an inference ask for a classification? Triton divides by the size of a value to give one, and a text has none: with
-- one such output of text, one request ends it (SIGFPE). What Triton passes to models does not show it, so it is looked
-- for here. A call that has arrived as a whole is refused. A stream has not: there the word is made unknown, what is no
-- message becomes zeros, and in place of a message that is too large comes one that asks for no model there is.
--
-- And: does a `generate` name what the authorizer alone may? There, and only there, Triton passes no headers to the model,
-- but every member of the body that is no input, as if it were one: a caller could be anybody for the model. Without that
-- member, models that ask who was authorised (tollgate_models/batch.py) refuse the call.
--
-- What stands in front of this: LARGEST, the bytes of the largest message.

local ASKED = "classification"
local IN_MESSAGE = { 6, 2, 1 } -- fields of ModelInferRequest: outputs, their parameters, the key
local MOST_FIELDS = 65536 -- in a message: a bound on the time that one takes
local FRAME = 5 -- bytes in front of a message: whether it is compressed, and its length
local WINDOW = 4096 -- bytes that are read at once: Envoy looks for each piece from the start of its buffer
local NOT_SERVED = "an output asks for a classification, which is not served here: rank the values of the output"
local NO_MESSAGE = "the message cannot be read as a ModelInferRequest of at most " .. MOST_FIELDS .. " fields"
local TOO_LARGE = "the message is larger than " .. LARGEST .. " bytes"
local INFER = "/inference.GRPCInferenceService/ModelInfer"
local STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
local OF_TRITON = { ["/inference.GRPCInferenceService/"] = true, ["/grpc.health.v1.Health/"] = true }
-- What Triton gets in place of a message that is too large. Its answer names the model, which is the sentence.
local INSTEAD = "\0\0\0\0" .. string.char(#TOO_LARGE + 2) .. "\10" .. string.char(#TOO_LARGE) .. TOO_LARGE
local AUTHORISED = "x-authz-model"
local FORGED = "the body has a member " .. AUTHORISED .. ", which only the authorizer may write"
local ESCAPED = {} -- by their codes in hexadecimal, but for what ends a text
for code = 0x20, 0x7e do
  local character = string.char(code)
  if not character:find('["\\]') then
    ESCAPED[string.format("%02x", code)] = character
    ESCAPED[string.format("%02X", code)] = character
  end
end

local function has_member(text, name)
  if text:find("\\u00", 1, true) then
    text = text:gsub("\\u00(%x%x)", ESCAPED)
  end
  local first, last = nil, 0
  repeat
    first, last = text:find('"' .. name .. '"', last + 1, true)
  until not first or text:find("^%s*:", last + 1)
  return first ~= nil
end

-- Bytes from buffers, of which `next_buffer` gives one after the other; `at` counts those of all. `edits`, of a stream:
-- what becomes of the buffer when the next one is wanted, in order.
local function source(next_buffer, edits)
  return { next_buffer = next_buffer, edits = edits, at = 0, before = 0, size = 0, window = "", opens = 0 }
end

-- In place of the bytes from `start` up to `stop` in the buffer comes `text`.
local function edit(from, start, stop, text)
  if from.edits then
    from.edits[#from.edits + 1] = { start = start, stop = stop, text = text }
  end
end

-- All at once: a caller chooses how many there are, and each would copy the whole buffer.
local function apply(from)
  if not from.edits or #from.edits == 0 then
    return
  end
  local text, kept, at = from.buffer:getBytes(0, from.size), {}, 0
  for _, one in ipairs(from.edits) do
    kept[#kept + 1] = text:sub(at + 1, one.start)
    kept[#kept + 1] = one.text
    at = one.stop
  end
  kept[#kept + 1] = text:sub(at + 1)
  from.buffer:setBytes(table.concat(kept))
  from.edits = {}
end

-- Whether there is a byte; it is in `buffer` then.
local function has_more(from)
  while from.at == from.before + from.size do
    apply(from)
    local buffer = not from.ended and from.next_buffer()
    from.ended = not buffer
    if from.ended then
      return false
    end
    from.buffer, from.before, from.size, from.window = buffer, from.before + from.size, buffer:length(), ""
  end
  return true
end

local function byte(from, stop)
  if from.at >= stop or not has_more(from) then
    return nil
  end
  local index = from.at - from.opens + 1
  if index < 1 or index > #from.window then
    local start = from.at - from.before
    from.window = from.buffer:getBytes(start, math.min(WINDOW, from.size - start))
    from.opens, index = from.at, 1
  end
  from.at = from.at + 1
  return from.window:byte(index)
end

-- Passes over what is before `stop`; with `instead`, a byte or none, each byte of it becomes that.
local function skip(from, stop, instead)
  while from.at < stop and has_more(from) do
    local start, last = from.at - from.before, math.min(stop - from.before, from.size)
    if instead then
      edit(from, start, last, instead:rep(last - start))
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

-- The word's last byte is changed: it is in a buffer that has not been passed on.
local function is_asked(from, stop)
  if stop - from.at ~= #ASKED then
    return false
  end
  for index = 1, #ASKED do
    if byte(from, stop) ~= ASKED:byte(index) then
      return false
    end
  end
  edit(from, from.at - from.before - 1, from.at - from.before, "N")
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

-- The next frame: the length of its message, its header, and where that begins in the buffer; nil if there is none. Of a
-- header that is in two buffers, the first part is held back: it goes on, or something else, with the last.
local function opened(from)
  if not has_more(from) then
    return nil
  end
  local found = { length = 0, header = "", start = from.at - from.before, is_split = false }
  for index = 1, FRAME do
    if from.at == from.before + from.size then
      edit(from, found.start, from.size, "")
      found.start, found.is_split = 0, true
    end
    local part = byte(from, math.huge)
    if not part then
      return nil
    end
    found.header = found.header .. string.char(part)
    found.length = index > 1 and found.length * 256 + part or 0
  end
  return found
end

-- What is wrong with the message of a frame, which may be no message; and what becomes of each byte of it that is left.
local function wrong_in(from, frame)
  if frame.length > LARGEST then
    edit(from, frame.start, from.at - from.before, INSTEAD)
    return TOO_LARGE, ""
  elseif frame.is_split then
    edit(from, frame.start, from.at - from.before, frame.header)
  end
  local asks = walk(from, from.at + frame.length, 1, { fields = 0 })
  if asks == nil then
    return NO_MESSAGE, "\0"
  end
  return asks and NOT_SERVED or nil
end

-- What is wrong with a message, if anything is with one; with edits, each is changed instead.
local function wrong_in_frames(next_buffer, edits)
  local from = source(next_buffer, edits)
  local frame = opened(from)
  while frame do
    local stop = from.at + frame.length
    local wrong, instead = wrong_in(from, frame)
    if wrong and not edits then
      return wrong
    end
    skip(from, stop, instead)
    frame = opened(from)
  end
  return nil
end

local function wrong_over_rest(handle, path)
  local is_inference = (path .. "?"):find("/infer?", 1, true)
  if not is_inference and not path:find("/generate", 1, true) then
    return nil
  end
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ""
  if is_inference then
    return has_member(text, ASKED) and NOT_SERVED or nil
  end
  return has_member(text, AUTHORISED) and FORGED or nil
end

-- The messages of a stream are changed as they go by; `passing` has the one that does. Every other call of Triton waits
-- here: it is one message, and a buffer that has a limit.
local function wrong_over_grpc(handle, path, passing)
  if path == STREAM then
    passing.next_buffer = handle:bodyChunks()
    return wrong_in_frames(function()
      passing.buffer = passing.next_buffer()
      return passing.buffer
    end, {})
  end
  local body = OF_TRITON[path:match("^/[^/]*/")] and handle:body()
  return body and path == INFER and wrong_in_frames(function()
    local left = body
    body = nil
    return left
  end) or nil
end
