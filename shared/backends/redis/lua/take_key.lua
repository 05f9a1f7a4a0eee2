-- Answers what the key stands for from now on.
-- KEYS what an idempotency key stands for · ARGV what it is to stand for, ttl ms, what that may take the place of or ''
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[3] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
