-- Answers how many jobs, tokens and tenants wait, how many jobs of one tenant, and how many jobs were ever started.
-- KEYS queue · ARGV tenant
local tenant = unpack(ARGV)
local queue = KEYS[1]
local tokens, mine, started = unpack(redis.call('HMGET', queue .. ':state', 'tokens', 'n ' .. tenant, 'started'))
return {redis.call('ZCARD', queue .. ':waiting'), tonumber(tokens or 0), redis.call('ZCARD', queue .. ':tags'),
  tonumber(mine or 0), tonumber(started or 0)}
