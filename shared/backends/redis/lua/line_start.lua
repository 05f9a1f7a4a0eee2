-- A job was claimed: its tenant is charged, unless `line_turn` has done so. Answers who else waits.
-- KEYS line · ARGV id
local line, id = KEYS[1], ARGV[1]
local place = tonumber(redis.call('ZSCORE', line .. ':open', id) or RUNNING)
if place < RUNNING then redis.call('ZADD', line .. ':open', RUNNING + place, id) end
local entry = entry_of(line, id)
if entry then
  start(line, id, entry)
  last(line)
end
return contenders(line)
