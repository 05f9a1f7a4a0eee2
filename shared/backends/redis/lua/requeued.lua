-- Notes that the job's message was published again. Answers its queue, or '' where it has ended or is gone.
-- KEYS job · ARGV now, statuses of jobs that have not ended
local at, open_statuses = unpack(ARGV)
local status, queue = unpack(redis.call('HMGET', KEYS[1], 'status', 'queue'))
if not among(status, open_statuses) then return '' end
redis.call('HSET', KEYS[1], 'queued', at)
return queue
