-- KEYS job log · ARGV replica to put on the job's list or '', offset, limit
local status, followers, ending, mode, epoch =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'followers', 'ending', 'mode', 'epoch'))
if not status then return {''} end
if ARGV[1] ~= '' and not ending and not string.find(' ' .. (followers or '') .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'followers', (followers and followers .. ' ' or '') .. ARGV[1])
end
local offset = tonumber(ARGV[2])
local data = redis.call('GETRANGE', KEYS[2], offset, offset + tonumber(ARGV[3]) - 1)
local result = ''
if ending and mode == 'unary' then result = redis.call('HGET', KEYS[1], 'result') or '' end
return {status, data, redis.call('STRLEN', KEYS[2]), ending or '', result, epoch or '0'}
