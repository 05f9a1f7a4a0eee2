-- Creates a job's record. Answers 1 if the record is this one (a repeated create finds its own), 0 if it is another.
-- A restored record starts a new epoch from which its attempts are numbered: attempts from before the loss are fenced.
-- KEYS job log body · ARGV spec, mode, retention s, deadline, ttl ms, follower or '', body or '', queue, creation time,
-- 1 if detached, 1 if its request is kept after its end, 1 if restored, 1 with a webhook, the limit key or ''; and for the tenant's account: its key, bytes in
-- all, bucket, bytes of the record, room for the log, 1 if the account is on another node of a cluster
local spec, mode, retention, deadline, ttl, follower, request_body, queue, created_at, detached, keeps, restored, webhook,
  limit_key, account, held, bucket, record_bytes, room, apart = unpack(ARGV)
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HGET', KEYS[1], 'spec') == spec and 1 or 0 end
local epoch = restored == '1' and string.format('%d', math.floor(now() * 1000))
local fields = {'spec', spec, 'mode', mode, 'retention', retention, 'deadline', deadline, 'status', 'queued',
  'attempt', epoch or 0, 'tries', 0, 'lost', 0, 'queue', queue, 'queued', created_at}
local function add(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if follower ~= '' then add('followers', follower) end
if detached == '1' then add('detached', 1) end
if keeps == '1' then add('keeps', 1) end
if webhook == '1' then add('webhook', 1) end
if limit_key ~= '' then add('key', limit_key) end
add('account', account)
add('held', held)
add('till', bucket)
add('base_bytes', record_bytes)
add('room', room)
if apart == '1' then add('apart', 1) end
if epoch then add('epoch', epoch) end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PEXPIRE', KEYS[1], ttl)
if request_body ~= '' then redis.call('SET', KEYS[3], request_body, 'PX', ttl) end
return 1
