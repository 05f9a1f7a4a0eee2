-- Answers the job's queue, whether it has a webhook, the key that counts it, what its tenant keeps (see keeps), and
-- how many frames it has; where it had been finished by this attempt before, the key and the frames.
-- KEYS job log body · ARGV id, attempt, offset, frames, number of frames, new status, header, result or '', statuses it may end from
local status, attempt, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'followers'))
if attempt == ARGV[2] and status == ARGV[6] then local key, chunks = unpack(redis.call('HMGET', KEYS[1], 'key', 'chunks'))
  return {'ok', '', '', key or '', {}, tonumber(chunks or 0)}
end
if attempt ~= ARGV[2] or status ~= 'in_progress' or not among(status, ARGV[9]) then return {'fenced', status or '', ''} end
local size
if ARGV[4] == '' then
  size = redis.call('STRLEN', KEYS[2])
else
  size = extend(KEYS[1], KEYS[2], ARGV[1], followers, tonumber(ARGV[3]), ARGV[4], ARGV[5])
  if not size then return {'gap', redis.call('STRLEN', KEYS[2])} end
end
local queue, webhook, key, moved, chunks = close(KEYS, ARGV[1], followers, ARGV[6], ARGV[7], ARGV[8], size)
return {'ok', queue, webhook, key, moved, chunks}
