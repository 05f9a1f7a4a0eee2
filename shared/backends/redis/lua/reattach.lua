-- KEYS job · ARGV statuses of jobs that are not over, the followers that it may have: none of them lives
local status, cancel, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'cancel', 'followers'))
if cancel or not among(status, ARGV[1]) or (followers or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'detached', 1)
return 1
