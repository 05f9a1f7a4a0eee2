-- Removes a job that has ended or is gone, and corrects its charge to the tokens it used.
-- KEYS queue · ARGV id, used tokens or ''
local id, used_tokens = unpack(ARGV)
local queue = KEYS[1]
redis.call('ZREM', queue .. ':open', id)
local entry = entry_of(queue, id)
if not entry then return 0 end
redis.call('ZREM', queue .. ':later', id)
if not dequeue(queue, id, entry) and used_tokens ~= '' then
  charge(queue, entry.tenant, (tonumber(used_tokens) - entry.tokens) / entry.weight)
end
redis.call('HDEL', queue .. ':jobs', id)
extend_ttl(queue)
return 1
