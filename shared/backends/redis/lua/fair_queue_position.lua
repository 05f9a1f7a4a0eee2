-- Answers a waiting job's rank in the order of arrival; and if it is in the fair queue, its rank among its tenant's jobs,
-- the tenant's tag, all waiting tokens and jobs, the tenant, up to 100 tenants with their tags, and their job counts.
-- KEYS queue · ARGV id
local id = unpack(ARGV)
local queue = KEYS[1]
local position = tonumber(redis.call('ZSCORE', queue .. ':open', id) or RUNNING)
if position >= RUNNING then return {} end
local rank = redis.call('ZRANK', queue .. ':open', id)
local entry = entry_of(queue, id)
if not entry or not redis.call('ZSCORE', queue .. ':waiting', member_of(entry, id)) then return {rank} end
local own = redis.call('ZLEXCOUNT', queue .. ':waiting', '[' .. entry.tenant .. '\0', '(' .. member_of(entry, id))
local others = {}
for index, value in ipairs(redis.call('ZRANGE', queue .. ':tags', 0, 99, 'WITHSCORES')) do
  others[index] = value
end
local counts = {}
for index = 1, #others, 2 do
  counts[#counts + 1] = redis.call('HGET', queue .. ':state', 'n ' .. others[index])
end
return {rank, own, redis.call('ZSCORE', queue .. ':tags', entry.tenant), redis.call('HGET', queue .. ':state', 'tokens'),
  redis.call('ZCARD', queue .. ':waiting'), entry.tenant, others, counts}
