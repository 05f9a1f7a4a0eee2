-- Answers 1 where no record of this id can be written from now on, 0 where there is one.
-- KEYS job · ARGV ttl ms
if redis.call('HEXISTS', KEYS[1], 'spec') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'discarded', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
