-- The answers of a stream. Over gRPC, ModelStreamInferResponse: an error is a sentence in each, its first field, as every
-- library writes it. A good answer is passed on unread, but for its first byte. Over HTTP (`generate_stream`), events: an
-- error is an event.

local IN_ANSWER = 10 -- tag of that field
local ERROR_EVENT = '^data:%s*{%s*"error"%s*:%s*"(.*)"%s*}%s*$'

local function in_7_bits(number)
  local bytes = ""
  while number > 127 do
    bytes, number = bytes .. string.char(number % 128 + 128), math.floor(number / 128)
  end
  return bytes .. string.char(number)
end

-- The beginning of a message: its frame, and its sentence, behind which comes as much more.
local function framed(text, more)
  local sentence = string.char(IN_ANSWER) .. in_7_bits(#text) .. text
  local length, header = #sentence + more, ""
  for _ = 1, FRAME do
    header, length = string.char(length % 256) .. header, math.floor(length / 256)
  end
  return header .. sentence
end

-- How long the sentence is that a message begins with, and where it begins; nothing if it does not end within its length.
local function sentence_in(bytes, at, length)
  local size, factor = 0, 1
  for index = at + 1, math.min(at + 5, #bytes) do
    local part = bytes:byte(index)
    size, factor = size + part % 128 * factor, factor * 128
    if part < 128 and index + size < at + length then
      return size, index + 1
    end
  end
end

-- The length of the message of the frame at `at`, of the sentence that it begins with, and where that begins: no sentence
-- if it does not begin with one, and nothing at all if more has to be known first.
local function frame_at(bytes, at)
  if #bytes - at + 1 < FRAME then
    return nil
  end
  local flag, first, second, third, fourth, tag = bytes:byte(at, at + FRAME)
  local length = ((first * 256 + second) * 256 + third) * 256 + fourth
  if flag ~= 0 or length == 0 or tag and tag ~= IN_ANSWER then
    return length
  elseif #bytes - at < FRAME + math.min(5, length - 1) then
    return nil
  end
  return length, sentence_in(bytes, at + FRAME, length)
end

-- What goes on of `bytes` from `at`, and where the rest begins; nothing if more has to be known first. `state`: how much of
-- a sentence is dropped, and then of a message passed on, before the next frame.
local function passed_on(state, bytes, at)
  local left, body = #bytes - at + 1, at + FRAME
  if left > 0 and state.drop + state.pass > 0 then
    local drop = math.min(state.drop, left)
    local pass = math.min(state.pass, left - drop)
    state.drop, state.pass = state.drop - drop, state.pass - pass
    return bytes:sub(at + drop, at + drop + pass - 1), at + drop + pass
  end
  local length, size, start = frame_at(bytes, at)
  if length and not size then
    state.pass = length
    return bytes:sub(at, body - 1), body
  elseif not length or size <= LONGEST and start + size - 1 > #bytes then
    return nil
  end
  state.pass = length - (start + size - body)
  if size > LONGEST then
    state.drop = size
    return framed(TOO_LONG, state.pass), start
  end
  local _, text = said("", bytes:sub(start, start + size - 1), "", "")
  return framed(text, state.pass), start + size
end

-- What goes on of `bytes`, and what is held back.
local function passed_on_of(state, bytes)
  local kept, at = {}, 1
  repeat
    local text, rest = passed_on(state, bytes, at)
    kept[#kept + 1], at = text, rest or at
  until not rest
  return table.concat(kept), bytes:sub(at)
end

-- An event as it goes on.
local function event_of(text)
  local found = text:match(ERROR_EVENT)
  local _, harmless = said("", unescaped(found or ""), "", "")
  return found and 'data: {"error":"' .. escaped(harmless) .. '"}' or text
end

-- As above, of events. `state.within`: the beginning of a long one has gone on, and `state.drop` whether the rest does not.
local function passed_on_of_events(state, bytes)
  local kept, at = {}, 1
  local stop, last = bytes:find("\n\n", 1, true)
  while stop do
    local text = bytes:sub(at, stop - 1)
    kept[#kept + 1] = not state.within and event_of(text) or state.drop and "" or text
    kept[#kept + 1], at, state.within = "\n\n", last + 1, false
    stop, last = bytes:find("\n\n", at, true)
  end
  local rest = bytes:sub(at)
  if not state.within and #rest > LONGEST then
    state.within, state.drop = true, rest:find('^data:%s*{%s*"error"') ~= nil
    kept[#kept + 1] = state.drop and event_of('data: {"error":"' .. TOO_LONG .. '"}') or nil
  end
  if state.within then
    kept[#kept + 1], rest = not state.drop and rest:sub(1, -2) or nil, rest:sub(-1)
  end
  return table.concat(kept), rest
end

-- The messages or events of a stream, each with a sentence like those of other errors. What is not whole is held back.
local function rewrite_stream(handle, passing, are_events)
  local state, held, passed = { drop = not are_events and 0, pass = 0 }, "", nil
  passing.next_buffer = handle:bodyChunks()
  passing.buffer = passing.next_buffer()
  while passing.buffer do
    local size = passing.buffer:length()
    if state.drop == 0 and size <= state.pass then
      state.pass = state.pass - size
    else
      local came = passing.buffer:getBytes(0, size)
      passed, held = (are_events and passed_on_of_events or passed_on_of)(state, held .. came)
      if passed ~= came then
        passing.buffer:setBytes(passed)
      end
    end
    passing.buffer = passing.next_buffer()
  end
end
