-- Bytes of a tenant go from one bucket to another, of a job whose record is at another node of a cluster. Answers the sum
-- and the limit where a limit is to be heeded and there is no room; {0, 0} where it was done.
-- KEYS account · ARGV bucket, bytes, new bucket, bytes, 1 if the limit is to be heeded
local at = now()
local before, after = tonumber(ARGV[2]), tonumber(ARGV[4])
if ARGV[5] == '1' then
  local total, limit = kept_by(KEYS[1], at), tonumber(redis.call('HGET', KEYS[1], 'limit') or 0)
  if limit > 0 and total - before + after > limit then return {total, limit} end
end
keep(KEYS[1], at, tonumber(ARGV[1]), -before)
keep(KEYS[1], at, tonumber(ARGV[3]), after)
return {0, 0}
