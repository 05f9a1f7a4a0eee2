-- Adds a job to the outbox.
-- KEYS outbox · ARGV id, in how many ms it is due, ttl ms
local id, due_in, ttl = unpack(ARGV)
redis.call('ZADD', KEYS[1], math.floor(now() * 1000) + tonumber(due_in), id)
if redis.call('PTTL', KEYS[1]) < tonumber(ttl) then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
