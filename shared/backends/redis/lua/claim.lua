-- Gives the job to a worker, with a new attempt number and a lease.
-- KEYS job log body · ARGV id, worker, lease s, lost owner or '', statuses that may be claimed, 1: answer with the body
local id, worker, lease_seconds, lost_owner, claimable, with_body = unpack(ARGV)
local status, owner, lease, cancel, followers, base, lost, tries, attempt, started, queue =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'owner', 'lease', 'cancel', 'followers', 'base', 'lost', 'tries',
    'attempt', 'started', 'queue'))
if cancel or not among(status, claimable) then return {'no', status or '', owner or '', cancel or ''} end
local at, size = now(), redis.call('STRLEN', KEYS[2])
if owner and owner ~= worker then
  if owner ~= lost_owner and tonumber(lease) > at then return {'no', status, owner, ''} end
  if size == tonumber(base) then
    tries, lost = tonumber(tries) + 1, tonumber(lost) + 1
  else
    lost = 0
  end
end
attempt = tonumber(attempt) + 1
redis.call('HSET', KEYS[1], 'status', 'in_progress', 'owner', worker, 'lease', at + tonumber(lease_seconds), 'base', size,
  'attempt', string.format('%d', attempt), 'tries', tries, 'lost', lost, 'started', started or at)
notify(followers, id, 's', 0, 'in_progress')
publish()
local body = with_body == '1' and redis.call('GET', KEYS[3])
return {'yes', attempt, tonumber(tries), tonumber(lost), size, queue, body}
