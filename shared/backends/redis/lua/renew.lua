-- Extends the lease of the attempt that runs the job.
-- KEYS job · ARGV attempt, lease s
local attempt, lease_seconds = unpack(ARGV)
local status, running, cancel = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'cancel'))
if status ~= 'in_progress' or running ~= attempt or cancel then return {'fenced', status or '', cancel or ''} end
redis.call('HSET', KEYS[1], 'lease', now() + tonumber(lease_seconds))
return {'ok'}
