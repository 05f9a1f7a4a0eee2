-- KEYS job · ARGV id, attempt, 1 if the attempt counts as a try, statuses that may be released
local status, attempt, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'followers'))
if attempt ~= ARGV[2] or not among(status, ARGV[4]) then return {'fenced', status or '', ''} end
redis.call('HSET', KEYS[1], 'status', 'queued')
redis.call('HDEL', KEYS[1], 'owner', 'lease')
redis.call('HINCRBY', KEYS[1], 'tries', ARGV[3])
tell(followers, ARGV[1], 's', 0, 'queued')
return {'ok'}
