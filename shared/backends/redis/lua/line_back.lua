-- A job waits again, from the moment it is due; what it was charged for is not counted.
-- KEYS line · ARGV id, place, when it is due or 0
local line, id = KEYS[1], ARGV[1]
redis.call('ZADD', line .. ':open', 'XX', ARGV[2], id)
local entry = entry_of(line, id)
if not entry or redis.call('ZSCORE', line .. ':later', id) then return 0 end
if redis.call('ZSCORE', line .. ':lines', in_line(entry, id)) then return 0 end
charge(line, entry.tenant, -entry.tokens / entry.weight)
if tonumber(ARGV[3]) > 0 then
  put(line, ':later', ARGV[3], id)
else
  enter(line, id, entry)
end
last(line)
return 1
