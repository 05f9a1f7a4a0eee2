-- Reads a job's status and log, and adds a replica to its followers.
-- KEYS job log · ARGV replica or '', offset, limit
local replica, from, limit = unpack(ARGV)
local status, followers, ending, mode, epoch =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'followers', 'ending', 'mode', 'epoch'))
if not status then return {''} end
if replica ~= '' and not ending and not string.find(' ' .. (followers or '') .. ' ', ' ' .. replica .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'followers', (followers and followers .. ' ' or '') .. replica)
end
local offset = tonumber(from)
local data = redis.call('GETRANGE', KEYS[2], offset, offset + tonumber(limit) - 1)
local result = ''
if ending and mode == 'unary' then result = redis.call('HGET', KEYS[1], 'result') or '' end
return {status, data, redis.call('STRLEN', KEYS[2]), ending or '', result, epoch or '0'}
