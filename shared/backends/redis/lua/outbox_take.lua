-- Answers until when they are held (ms), and the ids.
-- KEYS outbox · ARGV how many at most, for how many ms they are held
local at = math.floor(now() * 1000)
local held = at + tonumber(ARGV[2])
local ids = redis.call('ZRANGE', KEYS[1], '-inf', at, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], held, id) end
return {held, ids}
