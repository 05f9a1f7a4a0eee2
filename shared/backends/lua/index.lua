-- KEYS sorted sets · ARGV member, score, ttl ms, lowest id to keep or ''. A member more in indexes that outlive their
-- members, but not by much.
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, ARGV[2], ARGV[1])
  -- For a minute longer, so that not every call has to say it again.
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then redis.call('PEXPIRE', key, ARGV[3] + 60000) end
  if ARGV[4] ~= '' then redis.call('ZREMRANGEBYLEX', key, '-', '(' .. ARGV[4]) end
end
return 1
