-- Replaces a job's metadata. Answers 0 where there is no record.
-- KEYS job · ARGV metadata
local metadata = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], 'spec') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'metadata', metadata)
return 1
