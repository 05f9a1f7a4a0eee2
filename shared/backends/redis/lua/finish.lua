-- Ends a job, by the attempt that runs it. Answers its queue, whether it has a webhook, its limit key, what set_kept
-- returns, its number of frames, and whether it has a progress; where this attempt had finished it before, only the
-- limit key and the frames.
-- KEYS job log body · ARGV id, attempt, offset, frames, number of frames, new status, header, result or '',
-- statuses it may end from
local id, attempt, offset, frames, frame_count, new_status, header, result, endable = unpack(ARGV)
local status, running, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'followers'))
if running == attempt and status == new_status then local key, chunks = unpack(redis.call('HMGET', KEYS[1], 'key', 'chunks'))
  return {'ok', '', '', key or '', {}, tonumber(chunks or 0), ''}
end
if running ~= attempt or status ~= 'in_progress' or not among(status, endable) then return {'fenced', status or '', ''} end
local size
if frames == '' then
  size = redis.call('STRLEN', KEYS[2])
else
  size = extend(KEYS[1], KEYS[2], id, followers, tonumber(offset), frames, frame_count)
  if not size then return {'gap', redis.call('STRLEN', KEYS[2])} end
end
local queue, webhook, key, moved, chunks, progress = close(KEYS, id, followers, new_status, header, result, size)
return {'ok', queue, webhook, key, moved, chunks, progress}
