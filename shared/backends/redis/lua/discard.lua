-- With a ttl the id stays taken: a message that comes after all finds a record with nothing to run, and not none at all.
-- Answers what its tenant keeps (see keeps).
-- KEYS job log body · ARGV ttl ms or ''
local moved = keeps(KEYS[1], now(), 0, 0)
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], 'discarded', 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return moved
