-- A record that is written again after the store had lost it gets an epoch of its own, from which its attempts are
-- numbered: nobody who held the job before the loss has a number that counts.
-- Answers whether the record is this one: a create that is repeated finds it there.
-- KEYS job log body · ARGV spec, mode, retention s, deadline, ttl ms, followers, body or '', queue, now, 1 if detached, 1 if restored, 1 with a webhook, the key that counts it or '',
-- and what its tenant keeps of it: account, bytes, bucket, bytes of the record alone, room for its log, 1 in a cluster
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HGET', KEYS[1], 'spec') == ARGV[1] and 1 or 0 end
local epoch = ARGV[11] == '1' and string.format('%d', math.floor(now() * 1000))
local fields = {'spec', ARGV[1], 'mode', ARGV[2], 'retention', ARGV[3], 'deadline', ARGV[4], 'status', 'queued',
  'attempt', epoch or 0, 'tries', 0, 'lost', 0, 'queue', ARGV[8], 'queued', ARGV[9]}
local function add(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if ARGV[6] ~= '' then add('followers', ARGV[6]) end
if ARGV[10] == '1' then add('detached', 1) end
if ARGV[12] == '1' then add('webhook', 1) end
if ARGV[13] ~= '' then add('key', ARGV[13]) end
add('account', ARGV[14])
add('held', ARGV[15])
add('till', ARGV[16])
add('base_bytes', ARGV[17])
add('room', ARGV[18])
if ARGV[19] == '1' then add('apart', 1) end
if epoch then add('epoch', epoch) end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if ARGV[7] ~= '' then redis.call('SET', KEYS[3], ARGV[7], 'PX', ARGV[5]) end
return 1
