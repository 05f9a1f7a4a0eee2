-- Where a job waits: its rank in the order of arrival; and in line, its rank among its tenant's, that tenant's tag, tokens
-- and jobs that wait in all, and up to 100 tenants with their tags and how many jobs of each wait.
-- KEYS line · ARGV id
local line, id = KEYS[1], ARGV[1]
local place = tonumber(redis.call('ZSCORE', line .. ':open', id) or RUNNING)
if place >= RUNNING then return {} end
local rank = redis.call('ZRANK', line .. ':open', id)
local entry = entry_of(line, id)
if not entry or not redis.call('ZSCORE', line .. ':lines', in_line(entry, id)) then return {rank} end
local own = redis.call('ZLEXCOUNT', line .. ':lines', '[' .. entry.tenant .. '\0', '(' .. in_line(entry, id))
local others = {}
for index, value in ipairs(redis.call('ZRANGE', line .. ':tags', 0, 99, 'WITHSCORES')) do
  others[index] = value
end
local counts = {}
for index = 1, #others, 2 do
  counts[#counts + 1] = redis.call('HGET', line .. ':state', 'n ' .. others[index])
end
return {rank, own, redis.call('ZSCORE', line .. ':tags', entry.tenant), redis.call('HGET', line .. ':state', 'tokens'),
  redis.call('ZCARD', line .. ':lines'), entry.tenant, others, counts}
