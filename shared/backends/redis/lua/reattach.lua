-- Detaches a job from its dead followers, so that a new client can take it. Answers 1, or 0 where it cannot be taken.
-- KEYS job · ARGV statuses of jobs that have not ended, the job's followers as read (all dead)
local open_statuses, known_followers = unpack(ARGV)
local status, cancel, followers = unpack(redis.call('HMGET', KEYS[1], 'status', 'cancel', 'followers'))
if cancel or not among(status, open_statuses) or (followers or '') ~= known_followers then return 0 end
redis.call('HSET', KEYS[1], 'detached', 1)
return 1
