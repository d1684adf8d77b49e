-- What callers get of Triton. Its errors become problem documents (RFC 9457), or gRPC messages, like refusals of the
-- authorizer: without paths of the server and tracebacks, with the decision, and 400 where a caller's mistake is called
-- 500. HEAD, which Triton refuses, becomes GET and an answer without a body. Answers without an error are not touched.
-- What Triton gets is called JSON.
--
-- What stands in front of this: BASE, the beginning of problem types.

local LONGEST = 65536 -- bytes of an error that is read
local HEAD = "tollgate.head"
local KINDS = {
  ["400"] = { "invalid_inference_request", "Invalid inference request" },
  ["404"] = { "not_found", "Not found" },
  ["405"] = { "method_not_allowed", "Method not allowed" },
  ["503"] = { "model_unavailable", "Unavailable" },
}
local FAILED = { "model_failed", "The model server failed" }

local function last(before, path)
  return before .. path:match("[^/]*$")
end

-- The last segment of each absolute path, and nothing of a traceback. `newline`: as it is written in the text.
local function harmless(text, newline)
  local traceback = text:find(newline .. newline .. "At:", 1, true)
  local short = traceback and text:sub(1, traceback - 1) or text
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
  return "{" .. table.concat(members, ",") .. "}\n"
end

local function is_short_error(headers, status)
  local kind = headers:get("content-type") or ""
  local length = tonumber(headers:get("content-length")) or LONGEST + 1
  return status >= "400" and length <= LONGEST and not kind:find("problem", 1, true)
end

-- What Triton says of a body that is no JSON, or no inference request in JSON, it calls an error of the server.
local function status_of(status, text)
  local is_malformed = text:find("^failed to parse the request JSON") or text:find("^Unable to parse ")
  return status == "500" and is_malformed and "400" or status
end

local function rewrite(handle, status, without_body)
  local body = handle:body()
  local answer = body and body:getBytes(0, body:length())
  local text = answer and answer:match('^%s*{%s*"error"%s*:%s*"(.*)"%s*}%s*$')
  local headers = handle:headers() -- those from before the body are out of scope
  if text then
    status = status_of(status, text)
    answer = problem(status, harmless(text, "\\n"), decision(handle))
    headers:replace(":status", status)
    headers:replace("content-type", "application/problem+json")
  end
  if answer then
    body:setBytes(without_body and "" or answer)
    headers:replace("content-length", tostring(#answer))
  end
end

local function drop_body(handle)
  for chunk in handle:bodyChunks() do
    chunk:setBytes("")
  end
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
    local text = harmless(decoded(message), "\n")
    trailers:replace("grpc-message", encoded(text .. in_decision(decision(handle))))
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local of_triton = (headers:get(":path") .. "/"):find("^/v2[/?]") -- and not of a gRPC package `v2`
  local kind = headers:get("content-type") or ""
  -- Triton parses a body whose type is a form, whatever the path, and a big one ends it.
  if of_triton or kind:lower():find("x-www-form-urlencoded", 1, true) then
    headers:replace("content-type", "application/json")
  end
  if of_triton and headers:get(":method") == "HEAD" then
    headers:replace(":method", "GET")
    handle:streamInfo():dynamicMetadata():set(HEAD, "asked", true)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, kind = headers:get(":status"), headers:get("content-type") or ""
  if kind:find("^application/grpc") then
    rewrite_message(handle, headers:get("grpc-status") and headers or handle:trailers())
    return
  end
  local without_body = handle:streamInfo():dynamicMetadata():get(HEAD) ~= nil
  if is_short_error(headers, status) then
    rewrite(handle, status, without_body)
  elseif without_body then
    drop_body(handle)
  end
end
