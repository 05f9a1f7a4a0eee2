-- The job to start under the delivery of this one, charged; and who else waits.
-- KEYS line · ARGV id, what was run under its delivery before or '', now
local line, id = KEYS[1], ARGV[1]
local state, carries = line .. ':state', 'c ' .. ARGV[1]
local carried = redis.call('HGET', state, carries)
if carried and carried == ARGV[2] then
  redis.call('HDEL', state, carries)
  carried = nil
end
if carried then return {carried, contenders(line)} end
for _, due in ipairs(redis.call('ZRANGEBYSCORE', line .. ':later', '-inf', ARGV[3])) do
  redis.call('ZREM', line .. ':later', due)
  local entry = entry_of(line, due)
  if entry then enter(line, due, entry) end
end
local entry = entry_of(line, id)
if not entry or not redis.call('ZSCORE', line .. ':lines', in_line(entry, id)) then
  last(line)
  return {id, contenders(line)}
end
local first = redis.call('ZRANGE', line .. ':tags', 0, 0, 'WITHSCORES')
local chosen = id
if tonumber(first[2]) < tonumber(redis.call('ZSCORE', line .. ':tags', entry.tenant)) then
  local range = {'[' .. first[1] .. '\0', '(' .. first[1] .. '\1'}
  chosen = string.sub(redis.call('ZRANGEBYLEX', line .. ':lines', range[1], range[2], 'LIMIT', 0, 1)[1], #first[1] + 2)
  redis.call('HSET', state, carries, chosen)
  entry = entry_of(line, chosen)
end
start(line, chosen, entry)
last(line)
return {chosen, contenders(line)}
