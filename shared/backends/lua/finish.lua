-- KEYS job log body · ARGV id, attempt, offset, frames, number of frames, new status, header, result or '', statuses it may end from
local status, attempt, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'followers'))
if attempt == ARGV[2] and status == ARGV[6] then return {'ok', '', ''} end
if attempt ~= ARGV[2] or status ~= 'in_progress' or not among(status, ARGV[9]) then return {'fenced', status or '', ''} end
if ARGV[4] ~= '' and not extend(KEYS[1], KEYS[2], ARGV[1], followers, tonumber(ARGV[3]), ARGV[4], ARGV[5]) then
  return {'gap'}
end
close(KEYS, ARGV[1], followers, ARGV[6], ARGV[7], ARGV[8])
publish()
local queue, webhook = unpack(redis.call('HMGET', KEYS[1], 'queue', 'webhook'))
return {'ok', queue, webhook or ''}
