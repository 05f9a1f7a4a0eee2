-- A job that is handed back keeps its place in line; one that comes up later gets the place of that moment.
-- KEYS job · ARGV id, attempt, 1 if the attempt counts as a try, statuses that may be released, seconds until it comes up
local status, attempt, followers, place = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'followers', 'queued'))
if attempt ~= ARGV[2] or not among(status, ARGV[4]) then return {'fenced', status or '', ''} end
local queued = now() + tonumber(ARGV[5])
redis.call('HSET', KEYS[1], 'status', 'queued', 'queued', queued)
redis.call('HDEL', KEYS[1], 'owner', 'lease')
redis.call('HINCRBY', KEYS[1], 'tries', ARGV[3])
tell(followers, ARGV[1], 's', 0, 'queued')
publish()
return {'ok', redis.call('HGET', KEYS[1], 'queue'), tonumber(ARGV[5]) > 0 and tostring(queued) or place}
