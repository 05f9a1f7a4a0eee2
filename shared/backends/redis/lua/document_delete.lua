-- Answers 1, 0 where there is no such document (any more), -1 where it has another version. Version 0 means an expired one.
-- KEYS document index · ARGV id, version that was read
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
if version ~= 0 and version ~= tonumber(ARGV[2]) then return -1 end
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
