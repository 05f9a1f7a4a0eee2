-- KEYS job log body · ARGV id, owner, lease s, lost owner or '', statuses that may be claimed, 1 to answer with the body
local status, owner, lease, cancel, followers, base, lost, tries =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'owner', 'lease', 'cancel', 'followers', 'base', 'lost', 'tries'))
if cancel or not among(status, ARGV[5]) then return {'no', status or '', owner or '', cancel or ''} end
local at, size = now(), redis.call('STRLEN', KEYS[2])
if owner and owner ~= ARGV[2] then
  if owner ~= ARGV[4] and tonumber(lease) > at then return {'no', status, owner, ''} end
  if size == tonumber(base) then
    tries, lost = tonumber(tries) + 1, tonumber(lost) + 1
  else
    lost = 0
  end
end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'status', 'in_progress', 'owner', ARGV[2], 'lease', at + tonumber(ARGV[3]),
  'base', size, 'tries', tries, 'lost', lost)
redis.call('HSETNX', KEYS[1], 'started', at)
tell(followers, ARGV[1], 's', 0, 'in_progress')
publish()
local deadline, queue = unpack(redis.call('HMGET', KEYS[1], 'deadline', 'queue'))
local body = ARGV[6] == '1' and redis.call('GET', KEYS[3])
return {'yes', attempt, tonumber(tries), tonumber(lost), size, deadline, queue, body}
