-- What callers get of Triton. Its errors become problem documents (RFC 9457), or gRPC messages, like refusals of the
-- authorizer: without paths of the server and tracebacks, with the decision, and 400 where a caller's mistake is called
-- 500; in a stream, which has an error in each message, too. HEAD, which Triton refuses, becomes GET and an answer without
-- a body. Answers without an error are not touched. What Triton gets is called JSON. Where a script of Envoy fails, what it
-- was to change would pass as it is: so what fails here is refused, and an answer is replaced.
--
-- What stands in front of this: BASE, the beginning of problem types, and `classification.lua`, `sentences.lua` and
-- `messages.lua`.

local ASKED_FOR = "tollgate.asked_for" -- where the script's two halves keep what was asked for
local JSON = "application/json"
local UNREAD = "the proxy could not read the request, try again"
local UNREADABLE = "the answer of the model server could not be read, try again"
local BROKEN = { "proxy_failed", "The proxy failed" }
local IN_PLACE = problem("502", UNREADABLE, nil, BROKEN)

local function is_error(headers, status)
  local kind = headers:get("content-type") or ""
  return status >= "400" and not kind:find("problem", 1, true)
end

-- Without a length, it is known when all of it is there.
local function is_long(headers)
  return (tonumber(headers:get("content-length") or 0) or 0) > LONGEST
end

local function rewrite(handle, status, asked)
  local body = handle:body()
  local is_whole = body and body:length() <= LONGEST
  local answer = is_whole and body:getBytes(0, body:length())
  local text = answer and (answer:match('^%s*{%s*"error"%s*:%s*"(.*)"%s*}%s*$') or answer:match(ERROR_EVENT))
  local headers = handle:headers() -- those from before the body are out of scope
  if body and not is_whole then
    answer = problem(status, TOO_LONG, decision(handle))
    headers:replace("content-type", "application/problem+json")
  elseif text then
    text = unescaped(text)
    status, text = said(status_of(status, text), text, "500", "503")
    answer = problem(status, text, decision(handle))
    headers:replace(":status", status)
    headers:replace("content-type", "application/problem+json")
    if status == "503" then
      headers:replace("retry-after", RETRY_AFTER)
    end
  end
  if answer then
    body:setBytes(asked.head and "" or answer)
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

-- A refusal of the authorizer, or of Envoy, is one of ours already: only these have that header.
local function rewrite_message(handle, trailers)
  local message = trailers and trailers:get("grpc-message")
  local is_ours = message and trailers:get("cache-control") and message:find("%(decision [%x-]+%)$")
  if message and trailers:get("grpc-status") ~= "0" and not is_ours then
    local status, text = said(trailers:get("grpc-status"), decoded(message), "13", "14")
    if status then
      trailers:replace("grpc-status", status)
    end
    trailers:replace("grpc-message", encoded(text .. in_decision(decision(handle))))
  end
end

-- With the header by which Envoy's own answers know that an answer is one of ours already.
local function refuse(handle, is_rest, text, status, grpc_status, kind)
  local id, headers = decision(handle), { ["cache-control"] = "no-store" }
  if is_rest then
    headers[":status"], headers["content-type"] = status, "application/problem+json"
    handle:respond(headers, problem(status, text, id, kind))
  else
    headers[":status"], headers["content-type"], headers["grpc-status"] = "200", "application/grpc", grpc_status
    headers["grpc-message"] = encoded(kind[1] .. ": " .. text .. in_decision(id))
    handle:respond(headers)
  end
end

local function is_grpc(headers)
  return (headers:get("content-type") or ""):lower():find("application/grpc", 1, true)
end

local function ask(handle, passing)
  local headers = handle:headers()
  local path, wrong = headers:get(":path") or "", nil
  local of_triton = (path .. "/"):find("^/v2[/?]") -- and not of a gRPC package `v2`
  local kind = headers:get("content-type") or ""
  -- Triton parses a body whose type is a form, whatever the path, and a big one ends it.
  if kind ~= JSON and (of_triton or kind:lower():find("x-www-form-urlencoded", 1, true)) then
    headers:replace("content-type", JSON)
  end
  if of_triton and headers:get(":method") == "HEAD" then
    headers:replace(":method", "GET")
    handle:streamInfo():dynamicMetadata():set(ASKED_FOR, "head", true)
  end
  if path == STREAM then
    handle:streamInfo():dynamicMetadata():set(ASKED_FOR, "stream", true)
  end
  if of_triton then
    wrong = wrong_over_rest(handle, path)
  elseif kind:lower():find("application/grpc", 1, true) then
    wrong = wrong_over_grpc(handle, path, passing)
  end
  if wrong then
    refuse(handle, of_triton, wrong, "400", "3", KINDS["400"])
  end
end

-- Nothing of what has not gone on yet does.
local function drop(passing)
  local buffer = passing.buffer or passing.next_buffer()
  while buffer do
    buffer:setBytes("")
    buffer = passing.next_buffer()
  end
end

function envoy_on_request(handle)
  local passing = {}
  local done, failure = pcall(ask, handle, passing)
  if not done then
    handle:logErr("a request could not be read: " .. tostring(failure))
    if passing.next_buffer then
      drop(passing)
    else
      refuse(handle, not is_grpc(handle:headers()), UNREAD, "503", "14", BROKEN)
    end
  end
end

local function answer(handle, passing)
  local headers = handle:headers()
  local status, asked = headers:get(":status"), handle:streamInfo():dynamicMetadata():get(ASKED_FOR) or {}
  if is_grpc(headers) and headers:get("grpc-status") then
    rewrite_message(handle, headers)
  elseif is_grpc(headers) then
    if asked.stream then
      rewrite_stream(handle, passing, false)
    end
    rewrite_message(handle, handle:trailers())
  elseif is_error(headers, status) and not is_long(headers) then
    rewrite(handle, status, asked)
  elseif is_error(headers, status) then
    shorten(handle, headers, status)
  elseif asked.head then
    send(handle, "")
  elseif (headers:get("content-type") or ""):find("text/event-stream", 1, true) then
    rewrite_stream(handle, passing, true)
  end
end

-- In place of an error that could not be read, one that says nothing of it.
local function conceal(handle, passing)
  if passing.next_buffer then
    drop(passing)
  end
  local headers = handle:headers()
  if is_grpc(headers) then
    local found = headers:get("grpc-status") and headers or handle:trailers()
    if found and found:get("grpc-status") ~= "0" then
      found:replace("grpc-message", BROKEN[1] .. ": " .. UNREADABLE)
    end
  elseif is_error(headers, headers:get(":status")) then
    local body = handle:body()
    headers = handle:headers()
    headers:replace(":status", "502")
    headers:replace("content-type", "application/problem+json")
    if body then
      body:setBytes(IN_PLACE)
      headers:replace("content-length", tostring(#IN_PLACE))
    end
  end
end

function envoy_on_response(handle)
  local passing = {}
  local done, failure = pcall(answer, handle, passing)
  if not done then
    handle:logErr("an answer could not be read: " .. tostring(failure))
    conceal(handle, passing)
  end
end
