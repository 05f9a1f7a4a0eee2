-- A job waits. Where nothing waited or ran any more, old debts are forgiven.
-- KEYS line · ARGV id, place, ttl ms, tokens, weight, tenant
local line, id = KEYS[1], ARGV[1]
if redis.call('HLEN', line .. ':jobs') == 0 then redis.call('DEL', line .. ':debts') end
put(line, ':open', ARGV[2], id)
made[':jobs'] = true
redis.call('HSET', line .. ':jobs', id, ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. ARGV[6])
enter(line, id, {tenant = ARGV[6], tokens = tonumber(ARGV[4])})
last(line, tonumber(ARGV[3]))
return 1
