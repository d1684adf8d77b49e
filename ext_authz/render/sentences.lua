-- What callers are told of Triton's errors: sentences without paths of the server and tracebacks, for problem documents
-- (RFC 9457) and for gRPC.
--
-- What stands in front of this: BASE, the beginning of problem types, and `classification.lua`.

local RETRY_AFTER = "1" -- seconds, of what passes by itself
local LONGEST = 65536 -- bytes of an error that is read
local TOO_LONG = "the model server says more than 64 KiB about what is wrong: compare names, shapes and number of inputs with the model's metadata"
local HINT = " NOTE: Setting a non-zero max_batch_size" -- to who configures the model
local DEAD = "Stub process '" -- of a model: it is started again
local AGAIN = "the process of the model has ended and is started again: try again"
local REPLACED = "^Request for unknown model: '(" .. TOO_LARGE .. ")' is not found$"
local UNPARSED = "Unable to parse request" -- what gRPC calls an error of the server
local NOT_THIS = "the message cannot be read: it is not what this call takes"
local MALFORMED = {
  "failed to parse the request JSON",
  "failed to get request params",
  "Unable to parse ",
  "Unable to set ",
}
local UTF_8 = {
  "^[\194-\223][\128-\191]()",
  "^\224[\160-\191][\128-\191]()",
  "^[\225-\236\238-\239][\128-\191][\128-\191]()",
  "^\237[\128-\159][\128-\191]()",
  "^\240[\144-\191][\128-\191][\128-\191]()",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]()",
  "^\244[\128-\143][\128-\191][\128-\191]()",
}
local KINDS = {
  ["400"] = { "invalid_inference_request", "Invalid inference request" },
  ["404"] = { "not_found", "Not found" },
  ["405"] = { "method_not_allowed", "Method not allowed" },
  ["503"] = { "model_unavailable", "Unavailable" },
}
local FAILED = { "model_failed", "The model server failed" }
-- What may be in a path between two slashes. What is in quotes or brackets ends there.
local SEGMENT = "[^%s%c\"'`()<>%[%],;:/]"
local PATH = "([^%w%._%-/])/" .. SEGMENT .. "+/(" .. SEGMENT:gsub("/%]$", "]") .. "*)"
local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t" }
local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf_8(code)
  if code < 128 then
    return string.char(code)
  elseif code < 2048 then
    return string.char(192 + math.floor(code / 64), 128 + code % 64)
  end
  return string.char(224 + math.floor(code / 4096), 128 + math.floor(code / 64) % 64, 128 + code % 64)
end

-- The text that a string of JSON stands for, and the other way round.
local function unescaped(json)
  return (json:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, after)
    return kind == "u" and #after == 4 and utf_8(tonumber(after, 16)) or (PLAIN[kind] or kind) .. after
  end))
end

local function escaped(text)
  return (text:gsub('[%c"\\]', function(byte)
    return ESCAPES[byte] or string.format("\\u%04x", byte:byte())
  end))
end

local function last(before, path)
  return before .. (path:match("^.*/(.*)$") or path) -- in one pass: callers choose what Triton quotes
end

-- Names of callers may be any bytes; a problem document may not.
local function as_utf_8(bytes)
  local at = 1
  while at <= #bytes do
    local after
    for _, form in ipairs(UTF_8) do
      after = after or bytes:match(form, at)
    end
    if not after then
      return "?"
    end
    at = after
  end
  return bytes
end

-- The last segment of each absolute path, nothing of a traceback, and nothing for others than the caller.
local function harmless(text)
  local rest = text:find("\n\nAt:", 1, true) or text:find(HINT, 1, true)
  local short = rest and text:sub(1, rest - 1) or text
  short = short:gsub("^%[request id: .-%] ", ""):gsub("[\128-\255]+", as_utf_8):gsub(":///+", ": /")
  return (" " .. short):gsub(PATH, last):sub(2)
end

local function decision(handle)
  local found = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  return found and found["decision_id"]
end

local function in_decision(id)
  return id and " (decision " .. id .. ")" or ""
end

local function problem(status, text, id, kind)
  kind, text = kind or KINDS[status] or FAILED, escaped(text)
  local members = {
    '"type":"' .. BASE .. kind[1] .. '"',
    '"title":"' .. kind[2] .. '"',
    '"status":' .. status,
    '"detail":"' .. text .. '"',
    '"code":"' .. kind[1] .. '"',
    '"error":"' .. text .. in_decision(id) .. '"',
  }
  if id then
    members[#members + 1] = '"decision_id":"' .. id .. '"'
  end
  if status == "503" then
    members[#members + 1] = '"retry_after":' .. RETRY_AFTER
  end
  return "{" .. table.concat(members, ",") .. "}\n"
end

-- What is passed on of a status and a text. `failed`, `unavailable`: the statuses of a protocol for these.
local function said(status, text, failed, unavailable)
  if status == failed and text:find(DEAD, 1, true) then
    return unavailable, AGAIN
  elseif status == "13" and text == UNPARSED then
    return "3", NOT_THIS
  end
  return status, text:match(REPLACED) or harmless(text)
end

-- What Triton says of a body that is no JSON, or no inference request in JSON, it calls an error of the server.
local function status_of(status, text)
  for _, start in ipairs(status == "500" and MALFORMED or {}) do
    if text:sub(1, #start) == start then
      return "400"
    end
  end
  return status
end

local function decoded(message)
  return (message:gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

local function encoded(message)
  return (message:gsub("[^ -$&-~]", function(byte)
    return string.format("%%%02X", byte:byte())
  end))
end
