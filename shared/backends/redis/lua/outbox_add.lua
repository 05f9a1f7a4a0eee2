-- KEYS outbox · ARGV id, in how many ms it is due, ttl ms
redis.call('ZADD', KEYS[1], math.floor(now() * 1000) + tonumber(ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
