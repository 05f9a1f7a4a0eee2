-- Chooses and charges the job to start under the delivery of this one. Answers it, and two tenants with waiting jobs.
-- KEYS queue · ARGV id, the job that was run under this delivery before or '', now
local id, served, at = unpack(ARGV)
local queue = KEYS[1]
local state, piggyback_field = queue .. ':state', 'c ' .. id
local piggybacked = redis.call('HGET', state, piggyback_field)
if piggybacked and piggybacked == served then
  redis.call('HDEL', state, piggyback_field)
  piggybacked = nil
end
if piggybacked then return {piggybacked, contenders(queue)} end
for _, due in ipairs(redis.call('ZRANGEBYSCORE', queue .. ':later', '-inf', at)) do
  redis.call('ZREM', queue .. ':later', due)
  local entry = entry_of(queue, due)
  if entry then enqueue(queue, due, entry) end
end
local entry = entry_of(queue, id)
if not entry or not redis.call('ZSCORE', queue .. ':waiting', member_of(entry, id)) then
  extend_ttl(queue)
  return {id, contenders(queue)}
end
local first = redis.call('ZRANGE', queue .. ':tags', 0, 0, 'WITHSCORES')
local chosen, tenant = id, entry.tenant
if tonumber(first[2]) < tonumber(redis.call('ZSCORE', queue .. ':tags', tenant)) then tenant = first[1] end
local urgent, deadline = most_urgent(queue, tenant)
if tenant ~= entry.tenant or deadline < entry.deadline then
  chosen = urgent
  redis.call('HSET', state, piggyback_field, chosen)
  entry = entry_of(queue, chosen)
end
start(queue, chosen, entry)
extend_ttl(queue)
return {chosen, contenders(queue)}
