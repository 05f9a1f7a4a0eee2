-- Answers the job's queue, or '' where it is over or gone.
-- KEYS job · ARGV now, statuses of jobs that are not over
local status, queue = unpack(redis.call('HMGET', KEYS[1], 'status', 'queue'))
if not among(status, ARGV[2]) then return '' end
redis.call('HSET', KEYS[1], 'queued', ARGV[1])
return queue
