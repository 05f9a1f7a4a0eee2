-- KEYS sorted set · ARGV member, score, ttl ms, lowest id to keep or ''. A member more in an index that outlives its
-- members, but not by much.
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
if ARGV[4] ~= '' then redis.call('ZREMRANGEBYLEX', KEYS[1], '-', '(' .. ARGV[4]) end
return 1
