-- Ends a job that no live worker holds. Answers its queue, whether it has a webhook, its limit key, what set_kept
-- returns, its number of frames, and whether it has a progress; a queue of '' where a live worker holds the job or it
-- has ended.
-- KEYS job log body · ARGV id, dead owner or '', frames, number of frames, new status, header, statuses it may end from
local id, dead_owner, frames, frame_count, new_status, header, endable = unpack(ARGV)
local status, owner, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'owner', 'followers'))
if not among(status, endable) or (owner and owner ~= dead_owner) then return {'', '', '', {}, 0, ''} end
local size = redis.call('STRLEN', KEYS[2])
if frames ~= '' then size = extend(KEYS[1], KEYS[2], id, followers, size, frames, frame_count) end
local queue, webhook, key, moved, chunks, progress = close(KEYS, id, followers, new_status, header, '', size)
return {queue, webhook, key, moved, chunks, progress}
