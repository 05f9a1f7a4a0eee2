-- Reschedules or removes a held job. Does nothing where this holder no longer holds it.
-- KEYS outbox · ARGV id, until when it was held (ms), in how many ms it is due again or '' to remove it
local id, held_until, due_in = unpack(ARGV)
if tonumber(redis.call('ZSCORE', KEYS[1], id) or '0') ~= tonumber(held_until) then return 0 end
if due_in == '' then return redis.call('ZREM', KEYS[1], id) end
return redis.call('ZADD', KEYS[1], math.floor(now() * 1000) + tonumber(due_in), id)
