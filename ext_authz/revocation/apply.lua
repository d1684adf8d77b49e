-- Writes rows of `revocations` into one shard. A row takes effect unless a later revision of it is held, so that
-- writers may be slow, late or many: a stale "lifted" cannot remove a newer revocation, nor the other way round.
-- KEYS: rebuilding, then per row: value, revision
-- ARGV: nonce of the rebuild or "", its lease in ms, then per row: revision, value ("" = not in force), expiry in ms
-- Returns 1, or 0 when the rebuild has lost its nonce (a flush, or another rebuild): then nothing was written.
if ARGV[1] ~= "" then
  if redis.call("GET", KEYS[1]) ~= ARGV[1] then
    return 0
  end
  redis.call("PEXPIRE", KEYS[1], ARGV[2])
end
for row = 1, (#KEYS - 1) / 2 do
  local value_key, revision_key = KEYS[2 * row], KEYS[2 * row + 1]
  local revision, value, expiry = ARGV[3 * row], ARGV[3 * row + 1], ARGV[3 * row + 2]
  local held = redis.call("GET", revision_key)
  if not held or tonumber(held) <= tonumber(revision) then
    if value == "" then
      redis.call("DEL", value_key)
    else
      redis.call("SET", value_key, value, "PXAT", expiry)
    end
    redis.call("SET", revision_key, revision, "PXAT", expiry)
  end
end
return 1
