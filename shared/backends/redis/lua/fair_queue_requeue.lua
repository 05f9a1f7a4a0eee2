-- Lets a started job wait again, from the moment it is due, and takes its charge back.
-- KEYS queue · ARGV id, position (Unix s), when it is due or 0
local id, position, due_at = unpack(ARGV)
local queue = KEYS[1]
redis.call('ZADD', queue .. ':open', 'XX', position, id)
local entry = entry_of(queue, id)
if not entry or redis.call('ZSCORE', queue .. ':later', id) then return 0 end
if redis.call('ZSCORE', queue .. ':waiting', member_of(entry, id)) then return 0 end
charge(queue, entry.tenant, -entry.tokens / entry.weight)
if tonumber(due_at) > 0 then
  put(queue, ':later', due_at, id)
else
  enqueue(queue, id, entry)
end
extend_ttl(queue)
return 1
