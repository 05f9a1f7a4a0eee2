-- Answers how many jobs, tokens and tenants wait, how many jobs of one tenant, how many jobs were ever started, and the
-- sum of the estimates of those.
-- KEYS queue · ARGV tenant
local tenant = unpack(ARGV)
local queue = KEYS[1]
local tokens, mine, started, started_tokens =
  unpack(redis.call('HMGET', queue .. ':state', 'tokens', 'n ' .. tenant, 'started', 'started_tokens'))
return {redis.call('ZCARD', queue .. ':waiting'), tonumber(tokens or 0), redis.call('ZCARD', queue .. ':tags'),
  tonumber(mine or 0), tonumber(started or 0), math.min(tonumber(started_tokens or 0), 2 ^ 53)}
