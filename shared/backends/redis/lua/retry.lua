-- Queues an ended job again. Answers its queue and what set_kept returns; a queue of '' where it cannot be retried.
-- KEYS job log body · ARGV id, deadline, ttl ms, now, statuses that may be retried, room for its log
local id, deadline, ttl, queued_at, retriable, room = unpack(ARGV)
local status = redis.call('HGET', KEYS[1], 'status')
if not among(status, retriable) or redis.call('EXISTS', KEYS[3]) == 0 then return {'', {}} end
redis.call('HSET', KEYS[1], 'status', 'queued', 'queued', queued_at, 'deadline', deadline, 'tries', 0, 'lost', 0)
redis.call('HDEL', KEYS[1], 'ending', 'result', 'finished', 'expires', 'started', 'first', 'chunks', 'progress')
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', KEYS[3], ttl)
local queue, base = unpack(redis.call('HMGET', KEYS[1], 'queue', 'base_bytes'))
local at = now()
redis.call('HSET', KEYS[1], 'room', room)
local kept = (base or 0) + redis.call('STRLEN', KEYS[3]) + tonumber(room)
return {queue, set_kept(KEYS[1], at, bucket_at(at, tonumber(ttl) / 1000), kept)}
