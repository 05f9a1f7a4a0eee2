-- Answers the new version, or 0 where the stored one is not the one that was read. A put that is repeated finds its own
-- write there. Versions go by the clock, so that a document made anew never has one that an older one had.
-- KEYS document index · ARGV id, version that was read, value, ttl ms
local version, before, value = unpack(redis.call('HMGET', KEYS[1], 'version', 'before', 'value'))
if before == ARGV[2] and value == ARGV[3] then return tonumber(version) end
if (version or '0') ~= ARGV[2] then return 0 end
local new = math.max(tonumber(ARGV[2]) + 1, math.floor(now() * 1000000))
redis.call('HSET', KEYS[1], 'version', new, 'before', ARGV[2], 'value', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
return new
