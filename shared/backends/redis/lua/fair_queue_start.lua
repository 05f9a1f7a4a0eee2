-- Marks a job as running and charges its tenant, unless `fair_queue_next` has done so. Answers two tenants with waiting
-- jobs.
-- KEYS queue · ARGV id
local id = unpack(ARGV)
local queue = KEYS[1]
local position = tonumber(redis.call('ZSCORE', queue .. ':open', id) or RUNNING)
if position < RUNNING then redis.call('ZADD', queue .. ':open', RUNNING + position, id) end
local entry = entry_of(queue, id)
if entry then
  start(queue, id, entry)
  extend_ttl(queue)
end
return contenders(queue)
