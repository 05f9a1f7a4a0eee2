-- The id stays taken: a message that comes after all finds a record with nothing to run, and not none at all.
-- KEYS job log body · ARGV ttl ms
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'discarded', 1)
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
