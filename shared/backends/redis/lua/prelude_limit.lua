-- Returns a key's used requests and tokens: leaky buckets that drain by the limits per minute.
local function used(key, at, rpm, tpm)
  local requests, tokens, since = unpack(redis.call('HMGET', key, 'requests', 'tokens', 'at'))
  local minutes = math.max(0, at - (tonumber(since) or at)) / 60
  local function drained(used, limit) return limit > 0 and math.max(0, (tonumber(used) or 0) - limit * minutes) or 0 end
  return drained(requests, rpm), drained(tokens, tpm)
end

-- Stores the usage until the buckets are empty, and a minute longer.
local function use(key, at, rpm, tpm, requests, tokens)
  redis.call('HSET', key, 'requests', exact(requests), 'tokens', exact(tokens),
    'at', exact(at), 'rpm', rpm, 'tpm', tpm)
  local minutes = 1 + math.max(rpm > 0 and requests / rpm or 0, tpm > 0 and tokens / tpm or 0)
  redis.call('PEXPIRE', key, math.ceil(minutes * 60000))
end
