-- KEYS job log · ARGV id, attempt, offset, frames, number of frames
local status, attempt, cancel, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'cancel', 'followers'))
if status ~= 'in_progress' or attempt ~= ARGV[2] or cancel then return {'fenced', status or '', cancel or ''} end
if not extend(KEYS[1], KEYS[2], ARGV[1], followers, tonumber(ARGV[3]), ARGV[4], ARGV[5]) then return {'gap'} end
return {'ok'}
