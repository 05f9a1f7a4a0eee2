-- What a tenant keeps: see shared/quota.py. Its hash holds bytes by bucket, under the bucket's end in Unix seconds; their
-- sum as 'total'; the end of the first bucket as 'first'; and as 'limit' what was allowed when last asked.

local function bucket_at(at, seconds)
  local width = seconds <= 7200 and 60 or 3600
  return (math.floor((at + seconds) / width) + 1) * width
end

-- The bytes that are kept now; buckets whose time has come are dropped.
local function kept_by(account, at)
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

-- So many bytes more, or less, in a bucket. One that was lost has none to give back.
local function keep(account, at, bucket, bytes)
  if bytes == 0 or bucket <= at then return end
  kept_by(account, at)
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

-- A job keeps so many bytes from now on, in this bucket. In a cluster its tenant's count is at another node: answers what
-- is to be told there.
local function keeps(job, at, bucket, bytes)
  local account, held, till, apart = unpack(redis.call('HMGET', job, 'account', 'held', 'till', 'apart'))
  if not account then return {} end
  redis.call('HSET', job, 'held', string.format('%d', bytes), 'till', string.format('%d', bucket))
  if apart then return {account, till, held, string.format('%d', bucket), string.format('%d', bytes)} end
  keep(account, at, tonumber(till), -tonumber(held))
  keep(account, at, bucket, bytes)
  return {}
end
