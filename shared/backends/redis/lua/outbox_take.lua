-- Takes due jobs and holds them. Answers until when they are held (ms), and their ids.
-- KEYS outbox · ARGV most jobs, ms for which they are held
local limit, hold = unpack(ARGV)
local at = math.floor(now() * 1000)
local held = at + tonumber(hold)
local ids = redis.call('ZRANGE', KEYS[1], '-inf', at, 'BYSCORE', 'LIMIT', 0, limit)
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], held, id) end
return {held, ids}
