-- What callers get of Triton. Its errors become problem documents (RFC 9457), or gRPC messages, like refusals of the
-- authorizer: without paths of the server and tracebacks, with the decision, and 400 where a caller's mistake is called
-- 500. HEAD, which Triton refuses, becomes GET and an answer without a body. Answers without an error are not touched.
-- What Triton gets is called JSON.
--
-- What stands in front of this: BASE, the beginning of problem types, and `classification.lua`.

local RETRY_AFTER = "1" -- seconds, of what passes by itself
local LONGEST = 65536 -- bytes of an error that is read
local TOO_LONG = "the model server says more than 64 KiB about what is wrong: compare names, shapes and number of inputs with the model's metadata"
local ASKED_FOR = "tollgate.asked_for" -- where the script's two halves keep what was asked for
local HINT = " NOTE: Setting a non-zero max_batch_size" -- to who configures the model
local DEAD = "Stub process '" -- of a model: it is started again
local AGAIN = "the process of the model has ended and is started again: try again"
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

-- The last segment of each absolute path, nothing of a traceback, and nothing for others than the caller. `newline`: as it
-- is written in the text.
local function harmless(text, newline)
  local traceback = text:find(newline .. newline .. "At:", 1, true)
  local rest = traceback or text:find(HINT, 1, true)
  local short = rest and text:sub(1, rest - 1) or text
  short = short:gsub("^%[request id: .-%] ", ""):gsub("[\128-\255]+", as_utf_8)
  local kept = (" " .. short):gsub("([^%w%._%-/])/[%w%._%-]+/([%w%._%-/]*)", last)
  kept = kept:gsub("(\\[nrt])/[%w%._%-]+/([%w%._%-/]*)", last) -- behind a newline of JSON, which ends in a letter
  return kept:sub(2)
end

local function decision(handle)
  local found = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  return found and found["decision_id"]
end

local function in_decision(id)
  return id and " (decision " .. id .. ")" or ""
end

-- `text` stays escaped as it is in Triton's JSON.
local function problem(status, text, id)
  local kind = KINDS[status] or FAILED
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

local function is_error(headers, status)
  local kind = headers:get("content-type") or ""
  return status >= "400" and not kind:find("problem", 1, true)
end

local function is_short(headers)
  return (tonumber(headers:get("content-length")) or LONGEST + 1) <= LONGEST
end

-- What is passed on of a status and a text. `failed`, `unavailable`: the statuses of a protocol for these.
local function said(status, text, failed, unavailable, newline)
  if status == failed and text:find(DEAD, 1, true) then
    return unavailable, AGAIN
  end
  return status, harmless(text, newline)
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

local function rewrite(handle, status, without_body)
  local body = handle:body()
  local answer = body and body:getBytes(0, body:length())
  local text = answer and answer:match('^%s*{%s*"error"%s*:%s*"(.*)"%s*}%s*$')
  local headers = handle:headers() -- those from before the body are out of scope
  if text then
    status, text = said(status_of(status, text), text, "500", "503", "\\n")
    answer = problem(status, text, decision(handle))
    headers:replace(":status", status)
    headers:replace("content-type", "application/problem+json")
    if status == "503" then
      headers:replace("retry-after", RETRY_AFTER)
    end
  end
  if answer then
    body:setBytes(without_body and "" or answer)
    headers:replace("content-length", tostring(#answer))
  end
end

-- Instead of the body, which is not waited for.
local function send(handle, answer)
  for chunk in handle:bodyChunks() do
    chunk:setBytes(answer)
    answer = ""
  end
end

local function shorten(handle, headers, status)
  local answer = problem(status, TOO_LONG, decision(handle))
  headers:replace("content-type", "application/problem+json")
  headers:replace("content-length", tostring(#answer))
  send(handle, answer)
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

local function rewrite_message(handle, trailers)
  local message = trailers and trailers:get("grpc-message")
  if message and trailers:get("grpc-status") ~= "0" and not message:find("%(decision [%x-]+%)$") then
    local status, text = said(trailers:get("grpc-status"), decoded(message), "13", "14", "\n")
    if status then
      trailers:replace("grpc-status", status)
    end
    trailers:replace("grpc-message", encoded(text .. in_decision(decision(handle))))
  end
end

-- With the header by which Envoy's own answers know that an answer is one of ours already.
local function refuse(handle, text, is_rest)
  local id, headers = decision(handle), { ["cache-control"] = "no-store" }
  if is_rest then
    headers[":status"], headers["content-type"] = "400", "application/problem+json"
    handle:respond(headers, problem("400", text, id))
  else
    headers[":status"], headers["content-type"], headers["grpc-status"] = "200", "application/grpc", "3"
    headers["grpc-message"] = encoded(KINDS["400"][1] .. ": " .. text .. in_decision(id))
    handle:respond(headers)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path, wrong = headers:get(":path"), nil
  local of_triton = (path .. "/"):find("^/v2[/?]") -- and not of a gRPC package `v2`
  local kind = headers:get("content-type") or ""
  -- Triton parses a body whose type is a form, whatever the path, and a big one ends it.
  if of_triton or kind:lower():find("x-www-form-urlencoded", 1, true) then
    headers:replace("content-type", "application/json")
  end
  if of_triton and headers:get(":method") == "HEAD" then
    headers:replace(":method", "GET")
    handle:streamInfo():dynamicMetadata():set(ASKED_FOR, "head", true)
  end
  local is_inference = of_triton and (path .. "?"):find("/infer?", 1, true)
  if is_inference then
    handle:streamInfo():dynamicMetadata():set(ASKED_FOR, "inference", true)
    wrong = wrong_over_rest(handle)
  elseif kind:lower():find("application/grpc", 1, true) then
    wrong = wrong_over_grpc(handle, path)
  end
  if wrong then
    refuse(handle, wrong, is_inference)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, kind = headers:get(":status"), headers:get("content-type") or ""
  if kind:find("^application/grpc") then
    rewrite_message(handle, headers:get("grpc-status") and headers or handle:trailers())
    return
  end
  local asked = handle:streamInfo():dynamicMetadata():get(ASKED_FOR)
  local without_body = asked ~= nil and asked["head"]
  if is_error(headers, status) and is_short(headers) then
    rewrite(handle, status, without_body)
  elseif is_error(headers, status) and asked and asked["inference"] then
    shorten(handle, headers, status)
  elseif without_body then
    send(handle, "")
  end
end
