-- Writes a document. Answers the new version, or 0 where the stored version is not the one that was read. A repeated put
-- finds its own write. Versions follow the clock, so a document that is created again never reuses an old version.
-- KEYS document index · ARGV id, version that was read, value, ttl ms
local id, read_version, new_value, ttl = unpack(ARGV)
local version, before, value = unpack(redis.call('HMGET', KEYS[1], 'version', 'before', 'value'))
if before == read_version and value == new_value then return tonumber(version) end
if (version or '0') ~= read_version then return 0 end
local new = math.max(tonumber(read_version) + 1, math.floor(now() * 1000000))
redis.call('HSET', KEYS[1], 'version', new, 'before', read_version, 'value', new_value)
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('ZADD', KEYS[2], 0, id)
if redis.call('PTTL', KEYS[2]) < tonumber(ttl) then redis.call('PEXPIRE', KEYS[2], ttl) end
return new
