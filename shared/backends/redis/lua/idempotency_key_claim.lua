-- Sets an idempotency key's value if it is free or has the replaceable value. Answers its value afterwards.
-- KEYS idempotency key · ARGV value, ttl ms, value that may be replaced or ''
local value, ttl, replaceable = unpack(ARGV)
local held = redis.call('GET', KEYS[1])
if held and held ~= replaceable then return held end
redis.call('SET', KEYS[1], value, 'PX', ttl)
return value
