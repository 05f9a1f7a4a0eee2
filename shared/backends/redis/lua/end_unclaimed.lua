-- Answers the job's queue, whether it has a webhook, the key that counts it, what its tenant keeps (see keeps), and its frames; '' where
-- a live worker holds the job or it is over.
-- KEYS job log body · ARGV id, dead owner or '', frames, number of frames, new status, header, statuses it may end from
local status, owner, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'owner', 'followers'))
if not among(status, ARGV[7]) or (owner and owner ~= ARGV[2]) then return {'', '', '', {}, 0} end
local size = redis.call('STRLEN', KEYS[2])
if ARGV[3] ~= '' then size = extend(KEYS[1], KEYS[2], ARGV[1], followers, size, ARGV[3], ARGV[4]) end
local queue, webhook, key, moved, chunks = close(KEYS, ARGV[1], followers, ARGV[5], ARGV[6], '', size)
return {queue, webhook, key, moved, chunks}
