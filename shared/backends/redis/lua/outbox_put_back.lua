-- Does nothing where the job is not held by this taker any more: it has ended since, or is somebody else's.
-- KEYS outbox · ARGV id, until when it was held (ms), in how many ms it is due again or '' to forget it
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0') ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return redis.call('ZADD', KEYS[1], math.floor(now() * 1000) + tonumber(ARGV[3]), ARGV[1])
