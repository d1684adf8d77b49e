-- Forgets a row, if what is held of it is still what was found.
-- KEYS: revocation. ARGV: held
if redis.call("GET", KEYS[1]) == ARGV[1] then
  redis.call("DEL", KEYS[1])
end
