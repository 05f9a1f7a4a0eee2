-- A job is over: it is open no more, and what it used takes the place of its estimate. Done once, whoever says it again.
-- KEYS used open estimates · ARGV job id, tokens ('': the estimate stands), 1 where it was never accepted
local estimate = redis.call('HGET', KEYS[3], ARGV[1])
if not estimate then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
local rpm, tpm = unpack(redis.call('HMGET', KEYS[1], 'rpm', 'tpm'))
if not rpm then return 1 end
rpm, tpm = tonumber(rpm), tonumber(tpm)
local at = now()
local requests, tokens = used(KEYS[1], at, rpm, tpm)
if ARGV[2] ~= '' then tokens = math.max(0, tokens + tonumber(ARGV[2]) - tonumber(estimate)) end
if ARGV[3] == '1' then requests = math.max(0, requests - 1) end
use(KEYS[1], at, rpm, tpm, requests, tokens)
return 1
