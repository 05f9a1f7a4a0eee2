-- KEYS sorted set · ARGV member, score, ttl ms, lowest id to keep or ''. A member more in an index that cannot outlive its use.
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if ARGV[4] ~= '' then redis.call('ZREMRANGEBYLEX', KEYS[1], '-', '(' .. ARGV[4]) end
return 1
