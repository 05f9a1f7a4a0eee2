-- Moves bytes of a tenant's account between buckets, for a job whose record is on another node of a cluster. Answers
-- {0, 0}; where a limit applies and there is no room, the sum and the limit.
-- KEYS account · ARGV bucket, bytes, new bucket, new bytes, 1 if the limit applies
local bucket, bytes, new_bucket, new_bytes, limited = unpack(ARGV)
local at = now()
local before, after = tonumber(bytes), tonumber(new_bytes)
if limited == '1' then
  local total, limit = kept_bytes(KEYS[1], at), tonumber(redis.call('HGET', KEYS[1], 'limit') or 0)
  if limit > 0 and total - before + after > limit then return {total, limit} end
end
add_kept(KEYS[1], at, tonumber(bucket), -before)
add_kept(KEYS[1], at, tonumber(new_bucket), after)
return {0, 0}
