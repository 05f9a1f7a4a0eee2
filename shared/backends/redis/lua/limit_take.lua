-- Charges a request to its limit key, if it fits. Answers the limit that refused it ('' if it fits), and the usage
-- afterwards. A repeated step finds its job open already.
-- KEYS used open estimates · ARGV job id, tokens, until, requests per minute, tokens per minute, concurrency (0: no
-- limit), and for a batch line the share of the tokens that lines may use, otherwise ''
local job, more, until_at = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local rpm, tpm, concurrency = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local part = tonumber(ARGV[7])
local room, counts = tpm, 1
if part then
  room, counts, concurrency = math.max(tpm * part, more), 0, 0
end
local at = now()
for _, over in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', at, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], over)
  redis.call('HDEL', KEYS[3], over)
end
local requests, tokens = used(KEYS[1], at, rpm, tpm)
local refused = ''
if redis.call('HEXISTS', KEYS[3], job) == 0 then
  if concurrency > 0 and redis.call('ZCARD', KEYS[2]) >= concurrency then refused = 'concurrency'
  elseif rpm > 0 and counts == 1 and requests + 1 > rpm + 1e-6 then refused = 'requests'
  elseif tpm > 0 and tokens + more > room + 1e-6 then refused = 'tokens'
  else
    requests, tokens = requests + counts, tokens + more
    redis.call('ZADD', KEYS[2], until_at, job)
    redis.call('HSET', KEYS[3], job, more)
    local ttl = math.max(1, math.ceil((until_at - at) * 1000))
    for _, key in ipairs({KEYS[2], KEYS[3]}) do
      if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
    end
  end
end
use(KEYS[1], at, rpm, tpm, requests, tokens)
return {refused, exact(requests), exact(tokens), redis.call('ZCARD', KEYS[2])}
