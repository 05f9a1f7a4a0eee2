-- A tenant's account of kept bytes: see shared/quota.py. Its hash has the bytes of each bucket under the bucket's end in
-- Unix seconds, their sum as 'total', the end of the first bucket as 'first', and the last known limit as 'limit'.

local function bucket_at(at, seconds)
  local width = seconds <= 7200 and 60 or 3600
  return (math.floor((at + seconds) / width) + 1) * width
end

-- Returns the bytes kept now; drops buckets that have ended.
local function kept_bytes(account, at)
  local total, first = unpack(redis.call('HMGET', account, 'total', 'first'))
  if not first or tonumber(first) > at then return tonumber(total or 0) end
  local sum, least, fields = 0, nil, redis.call('HGETALL', account)
  for index = 1, #fields, 2 do
    local ends = tonumber(fields[index])
    if ends and ends <= at then
      redis.call('HDEL', account, fields[index])
    elseif ends then
      sum, least = sum + tonumber(fields[index + 1]), math.min(least or ends, ends)
    end
  end
  redis.call('HSET', account, 'total', string.format('%d', sum))
  if least then redis.call('HSET', account, 'first', string.format('%d', least)) else redis.call('HDEL', account, 'first') end
  return sum
end

-- Adds bytes to a bucket, or subtracts them, but not below zero (the bucket may have been lost).
local function add_kept(account, at, bucket, bytes)
  if bytes == 0 or bucket <= at then return end
  kept_bytes(account, at)
  local field = string.format('%d', bucket)
  bytes = math.max(bytes, -tonumber(redis.call('HGET', account, field) or 0))
  if bytes == 0 then return end
  redis.call('HINCRBY', account, field, string.format('%d', bytes))
  redis.call('HINCRBY', account, 'total', string.format('%d', bytes))
  local first = redis.call('HGET', account, 'first')
  if not first or tonumber(first) > bucket then redis.call('HSET', account, 'first', field) end
  local ttl = math.ceil((bucket - at) * 1000)
  if redis.call('PTTL', account) < ttl then redis.call('PEXPIRE', account, string.format('%d', ttl)) end
end

-- Sets the bytes that a job keeps, and their bucket. Where the account is on another node of a cluster, returns the
-- arguments of move_kept_bytes; otherwise {}.
local function set_kept(job, at, bucket, bytes)
  local account, held, till, apart = unpack(redis.call('HMGET', job, 'account', 'held', 'till', 'apart'))
  if not account then return {} end
  redis.call('HSET', job, 'held', string.format('%d', bytes), 'till', string.format('%d', bucket))
  if apart then return {account, till, held, string.format('%d', bucket), string.format('%d', bytes)} end
  add_kept(account, at, tonumber(till), -tonumber(held))
  add_kept(account, at, bucket, bytes)
  return {}
end
