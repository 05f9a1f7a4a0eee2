-- Adds a waiting job. Where no job waited or ran any more, old debts are dropped.
-- KEYS queue · ARGV id, position (Unix s), ttl ms, tokens, weight, deadline (ms, 13 digits), w or -, tenant
local id, position, ttl, tokens, weight, deadline, windowed, tenant = unpack(ARGV)
local queue = KEYS[1]
if redis.call('HLEN', queue .. ':jobs') == 0 then redis.call('DEL', queue .. ':debts') end
put(queue, ':open', position, id)
created_keys[':jobs'] = true
redis.call('HSET', queue .. ':jobs', id, table.concat({tokens, weight, deadline, windowed, tenant}, ' '))
enqueue(queue, id, entry_of(queue, id))
extend_ttl(queue, tonumber(ttl))
return 1
