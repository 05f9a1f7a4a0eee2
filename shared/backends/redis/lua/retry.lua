-- Answers the job's queue and what its tenant keeps (see keeps), or '' where it cannot be tried again.
-- KEYS job log body · ARGV id, deadline, ttl ms, now, statuses that may be retried, room for its log
local status = redis.call('HGET', KEYS[1], 'status')
if not among(status, ARGV[5]) or redis.call('EXISTS', KEYS[3]) == 0 then return {'', {}} end
redis.call('HSET', KEYS[1], 'status', 'queued', 'queued', ARGV[4], 'deadline', ARGV[2], 'tries', 0, 'lost', 0)
redis.call('HDEL', KEYS[1], 'ending', 'result', 'finished', 'expires', 'started', 'first', 'chunks')
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
local queue, base = unpack(redis.call('HMGET', KEYS[1], 'queue', 'base_bytes'))
local at = now()
redis.call('HSET', KEYS[1], 'room', ARGV[6])
local kept = (base or 0) + redis.call('STRLEN', KEYS[3]) + tonumber(ARGV[6])
return {queue, keeps(KEYS[1], at, bucket_at(at, tonumber(ARGV[3]) / 1000), kept)}
