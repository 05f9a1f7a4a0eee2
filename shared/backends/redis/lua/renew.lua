-- KEYS job · ARGV attempt, lease s
local status, attempt, cancel = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'cancel'))
if status ~= 'in_progress' or attempt ~= ARGV[1] or cancel then return {'fenced', status or '', cancel or ''} end
redis.call('HSET', KEYS[1], 'lease', now() + tonumber(ARGV[2]))
return {'ok'}
