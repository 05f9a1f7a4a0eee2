-- Writes a tombstone, so that no record of this id can be created any more. Answers 1, or 0 where a record exists.
-- KEYS job · ARGV ttl ms
local ttl = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], 'spec') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'discarded', 1)
redis.call('PEXPIRE', KEYS[1], ttl)
return 1
