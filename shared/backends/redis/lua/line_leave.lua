-- A job is over, or gone.
-- KEYS line · ARGV id, the tokens it used or ''
local line, id = KEYS[1], ARGV[1]
redis.call('ZREM', line .. ':open', id)
local entry = entry_of(line, id)
if not entry then return 0 end
redis.call('ZREM', line .. ':later', id)
if not exit(line, id, entry) and ARGV[2] ~= '' then
  charge(line, entry.tenant, (tonumber(ARGV[2]) - entry.tokens) / entry.weight)
end
redis.call('HDEL', line .. ':jobs', id)
last(line)
return 1
