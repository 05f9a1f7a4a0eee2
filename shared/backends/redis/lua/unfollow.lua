-- Removes a replica from a job's followers.
-- KEYS job · ARGV replica
local leaving = unpack(ARGV)
local followers = redis.call('HGET', KEYS[1], 'followers')
if not followers then return 0 end
local kept = {}
for replica in string.gmatch(followers, '%S+') do
  if replica ~= leaving then kept[#kept + 1] = replica end
end
if #kept == 0 then return redis.call('HDEL', KEYS[1], 'followers') end
return redis.call('HSET', KEYS[1], 'followers', table.concat(kept, ' '))
