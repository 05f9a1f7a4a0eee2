-- Adds a member to sorted sets; the sets outlive their members by at least a minute. With a bucket, the last key is the
-- tenant's account and the member a job that is charged to it. Answers 1; where there is no room, the bytes that the
-- tenant keeps, and nothing is written.
-- KEYS sorted sets, and the account · ARGV member, score, ttl ms, lowest member to keep or '', and for the account:
-- bucket, bytes, limit (0: unlimited)
local member, score, ttl, oldest, bucket, bytes, limit = unpack(ARGV)
local sets = #KEYS
if bucket then
  sets = sets - 1
  local account, at, most = KEYS[#KEYS], now(), tonumber(limit)
  -- A repeated step finds its job in the set.
  if not redis.call('ZSCORE', KEYS[1], member) then
    local total = kept_bytes(account, at)
    if most > 0 and total + tonumber(bytes) > most then return {total} end
    add_kept(account, at, tonumber(bucket), tonumber(bytes))
    redis.call('HSET', account, 'limit', limit)
  end
end
for index = 1, sets do
  local key = KEYS[index]
  redis.call('ZADD', key, score, member)
  -- A minute longer, so that most calls need not extend it.
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl + 60000) end
  if oldest ~= '' then redis.call('ZREMRANGEBYLEX', key, '-', '(' .. oldest) end
end
return 1
