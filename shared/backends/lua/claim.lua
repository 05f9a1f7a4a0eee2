-- KEYS job log body · ARGV id, owner, lease s, lost owner or '', statuses that may be claimed
local status, owner, lease, attempt, tries, cancel, followers =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'owner', 'lease', 'attempt', 'tries', 'cancel', 'followers'))
if cancel or not among(status, ARGV[5]) then return {'no', status or '', owner or '', cancel or ''} end
local at = now()
if owner then
  if owner ~= ARGV[4] and tonumber(lease) > at then return {'no', status, owner, ''} end
  tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)
end
attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'status', 'in_progress', 'owner', ARGV[2], 'lease', at + tonumber(ARGV[3]))
redis.call('HSETNX', KEYS[1], 'started', at)
tell(followers, ARGV[1], 's', 0, 'in_progress')
local deadline, queue = unpack(redis.call('HMGET', KEYS[1], 'deadline', 'queue'))
return {'yes', attempt, tonumber(tries), redis.call('STRLEN', KEYS[2]), deadline, queue, redis.call('GET', KEYS[3])}
