-- Answers the job's queue, or '' where it cannot be tried again.
-- KEYS job log body · ARGV id, deadline, ttl ms, now, statuses that may be retried
local status = redis.call('HGET', KEYS[1], 'status')
if not among(status, ARGV[5]) or redis.call('EXISTS', KEYS[3]) == 0 then return '' end
redis.call('HSET', KEYS[1], 'status', 'queued', 'queued', ARGV[4], 'deadline', ARGV[2], 'tries', 0, 'lost', 0)
redis.call('HDEL', KEYS[1], 'ending', 'result', 'finished', 'expires', 'started', 'first', 'chunks')
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return redis.call('HGET', KEYS[1], 'queue')
