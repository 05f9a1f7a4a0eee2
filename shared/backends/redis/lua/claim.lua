-- KEYS job log body · ARGV id, owner, lease s, lost owner or '', statuses that may be claimed, 1 to answer with the body
local status, owner, lease, cancel, followers, base, lost, tries, attempt, started, deadline, queue =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'owner', 'lease', 'cancel', 'followers', 'base', 'lost', 'tries',
    'attempt', 'started', 'deadline', 'queue'))
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
attempt = tonumber(attempt) + 1
redis.call('HSET', KEYS[1], 'status', 'in_progress', 'owner', ARGV[2], 'lease', at + tonumber(ARGV[3]), 'base', size,
  'attempt', string.format('%d', attempt), 'tries', tries, 'lost', lost, 'started', started or at)
tell(followers, ARGV[1], 's', 0, 'in_progress')
publish()
local body = ARGV[6] == '1' and redis.call('GET', KEYS[3])
return {'yes', attempt, tonumber(tries), tonumber(lost), size, deadline, queue, body}
