-- Closes a job at its limit key: it is no longer open, and its used tokens replace its estimate. Harmless if repeated.
-- KEYS used open estimates · ARGV job id, tokens ('': the estimate stands), 1 if the job was never accepted
local job, actual, refunded = unpack(ARGV)
local estimate = redis.call('HGET', KEYS[3], job)
if not estimate then return 0 end
redis.call('ZREM', KEYS[2], job)
redis.call('HDEL', KEYS[3], job)
local rpm, tpm = unpack(redis.call('HMGET', KEYS[1], 'rpm', 'tpm'))
if not rpm then return 1 end
rpm, tpm = tonumber(rpm), tonumber(tpm)
local at = now()
local requests, tokens = used(KEYS[1], at, rpm, tpm)
if actual ~= '' then tokens = math.max(0, tokens + tonumber(actual) - tonumber(estimate)) end
if refunded == '1' then requests = math.max(0, requests - 1) end
use(KEYS[1], at, rpm, tpm, requests, tokens)
return 1
