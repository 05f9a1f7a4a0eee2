-- Deletes a job. With a ttl it leaves a tombstone: a message that arrives later finds that there is nothing to run.
-- Answers what set_kept returns.
-- KEYS job log body · ARGV ttl ms or ''
local ttl = unpack(ARGV)
local moved = set_kept(KEYS[1], now(), 0, 0)
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if ttl ~= '' then
  redis.call('HSET', KEYS[1], 'discarded', 1)
  redis.call('PEXPIRE', KEYS[1], ttl)
end
return moved
