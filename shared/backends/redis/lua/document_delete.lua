-- Deletes a document. Answers 1, 0 where it does not exist, -1 where it has another version. Version 0: it expired.
-- KEYS document index · ARGV id, version that was read
local id, read_version = unpack(ARGV)
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
if version ~= 0 and version ~= tonumber(read_version) then return -1 end
redis.call('ZREM', KEYS[2], id)
return redis.call('DEL', KEYS[1])
