-- Hands a job back to its queue. Without a delay it keeps its position; with one it gets the position of its due time.
-- KEYS job · ARGV id, attempt, 1 if the attempt counts as a try, statuses that may be released, delay s
local id, attempt, counted, releasable, delay = unpack(ARGV)
local status, running, followers, position = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'followers', 'queued'))
if running ~= attempt or not among(status, releasable) then return {'fenced', status or '', ''} end
local queued = now() + tonumber(delay)
redis.call('HSET', KEYS[1], 'status', 'queued', 'queued', queued)
redis.call('HDEL', KEYS[1], 'owner', 'lease')
redis.call('HINCRBY', KEYS[1], 'tries', counted)
notify(followers, id, 's', 0, 'queued')
publish()
return {'ok', redis.call('HGET', KEYS[1], 'queue'), tonumber(delay) > 0 and tostring(queued) or position}
