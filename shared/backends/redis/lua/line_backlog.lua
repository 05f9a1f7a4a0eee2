-- What waits: jobs, tokens, tenants that have some, jobs of one; and how many have ever been started.
-- KEYS line · ARGV tenant
local line = KEYS[1]
local tokens, mine, started = unpack(redis.call('HMGET', line .. ':state', 'tokens', 'n ' .. ARGV[1], 'started'))
return {redis.call('ZCARD', line .. ':lines'), tonumber(tokens or 0), redis.call('ZCARD', line .. ':tags'),
  tonumber(mine or 0), tonumber(started or 0)}
