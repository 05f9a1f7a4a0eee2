-- Adds a waiting job. Where no job waited or ran any more, old debts are dropped.
-- KEYS queue · ARGV id, position (Unix s), ttl ms, tokens, weight, tenant
local id, position, ttl, tokens, weight, tenant = unpack(ARGV)
local queue = KEYS[1]
if redis.call('HLEN', queue .. ':jobs') == 0 then redis.call('DEL', queue .. ':debts') end
put(queue, ':open', position, id)
created_keys[':jobs'] = true
redis.call('HSET', queue .. ':jobs', id, tokens .. ' ' .. weight .. ' ' .. tenant)
enqueue(queue, id, {tenant = tenant, tokens = tonumber(tokens)})
extend_ttl(queue, tonumber(ttl))
return 1
