-- KEYS sorted sets, and a tenant's account where the member is a job that is to be counted · ARGV member, score, ttl ms,
-- lowest id to keep or '', and of such a job its bucket, its bytes, and what the tenant may keep (0: any number). A member
-- more in indexes that outlive their members, but not by much. Answers 1; where there is no room what the tenant keeps,
-- and nothing was written.
local sets = #KEYS
if ARGV[5] then
  sets = sets - 1
  local account, at, limit = KEYS[#KEYS], now(), tonumber(ARGV[7])
  -- A step that is repeated finds its job there.
  if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    local total = kept_by(account, at)
    if limit > 0 and total + tonumber(ARGV[6]) > limit then return {total} end
    keep(account, at, tonumber(ARGV[5]), tonumber(ARGV[6]))
    redis.call('HSET', account, 'limit', ARGV[7])
  end
end
for index = 1, sets do
  local key = KEYS[index]
  redis.call('ZADD', key, ARGV[2], ARGV[1])
  -- For a minute longer, so that not every call has to say it again.
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then redis.call('PEXPIRE', key, ARGV[3] + 60000) end
  if ARGV[4] ~= '' then redis.call('ZREMRANGEBYLEX', key, '-', '(' .. ARGV[4]) end
end
return 1
