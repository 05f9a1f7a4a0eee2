-- ── the fair queue of shared/fairness.py in Redis. `queue` is the prefix of its keys, which share one slot:
-- :open id → position (see keys.open_jobs)
-- :jobs id → "<tokens> <weight> <deadline in ms, 13 digits> <w if that is a window's end, else -> <tenant>"
-- :waiting "<tenant>\0<deadline><id>" of waiting jobs · :later id → when it is due again
-- :tags tenant → tag, of tenants with waiting jobs · :debts tenant → tag, of the others
-- :state v (virtual time), tokens (waiting), n <tenant> (waiting jobs), c <id> (the job piggybacked on its delivery),
-- started (jobs ever started), started_tokens (the sum of their estimates), windowed (waiting jobs with a window)

local RUNNING = 1e10
local DEADLINE_DIGITS = 13
local QUEUE_KEYS = {':open', ':jobs', ':waiting', ':tags', ':debts', ':later', ':state'}

local function entry_of(queue, id)
  local entry = redis.call('HGET', queue .. ':jobs', id)
  if not entry then return nil end
  local tokens, weight, deadline, windowed, tenant = string.match(entry, '^(%S+) (%S+) (%d+) ([w-]) (.*)$')
  return {tenant = tenant, tokens = tonumber(tokens), weight = tonumber(weight), deadline = deadline,
    windowed = windowed == 'w'}
end

local function virtual_time(queue)
  return tonumber(redis.call('HGET', queue .. ':state', 'v') or 0)
end

local function member_of(entry, id)
  return entry.tenant .. '\0' .. entry.deadline .. id
end

-- Returns the tenant's waiting job with the earliest deadline, and that deadline.
local function most_urgent(queue, tenant)
  local first = redis.call('ZRANGEBYLEX', queue .. ':waiting', '[' .. tenant .. '\0', '(' .. tenant .. '\1', 'LIMIT', 0, 1)[1]
  local at = #tenant + 2
  return string.sub(first, at + DEADLINE_DIGITS), string.sub(first, at, at + DEADLINE_DIGITS - 1)
end

-- Keys that this step may have created.
local created_keys = {}

-- Gives created keys the expiry of the others; with `ttl` (ms), extends all keys to at least that.
local function extend_ttl(queue, ttl)
  if not ttl and not next(created_keys) then return end
  local left = redis.call('PTTL', queue .. ':state')
  local longer = ttl and left < ttl
  if longer then left = ttl + 3600000 end
  if left < 0 then left = 3600000 end
  if longer then
    for _, key in ipairs(QUEUE_KEYS) do redis.call('PEXPIRE', queue .. key, left) end
    return
  end
  for key in pairs(created_keys) do
    if redis.call('PTTL', queue .. key) == -1 then redis.call('PEXPIRE', queue .. key, left) end
  end
end

-- Adds a member to a set; returns whether it is new (then the set may be new as well).
local function put(queue, key, score, member)
  local new = redis.call('ZADD', queue .. key, score, member) == 1
  if new then created_keys[key] = true end
  return new
end

local function enqueue(queue, id, entry)
  if not put(queue, ':waiting', 0, member_of(entry, id)) then return end
  created_keys[':state'] = true
  redis.call('HINCRBY', queue .. ':state', 'tokens', entry.tokens)
  if entry.windowed then redis.call('HINCRBY', queue .. ':state', 'windowed', 1) end
  if redis.call('HINCRBY', queue .. ':state', 'n ' .. entry.tenant, 1) == 1 then
    local debt = tonumber(redis.call('ZSCORE', queue .. ':debts', entry.tenant) or 0)
    put(queue, ':tags', exact(math.max(virtual_time(queue), debt)), entry.tenant)
    redis.call('ZREM', queue .. ':debts', entry.tenant)
  end
end

-- Takes a job out; returns its tenant's tag, or nil if it was not waiting.
local function dequeue(queue, id, entry)
  if redis.call('ZREM', queue .. ':waiting', member_of(entry, id)) == 0 then return nil end
  local tag = redis.call('ZSCORE', queue .. ':tags', entry.tenant)
  redis.call('HINCRBY', queue .. ':state', 'tokens', -entry.tokens)
  if entry.windowed then redis.call('HINCRBY', queue .. ':state', 'windowed', -1) end
  if redis.call('HINCRBY', queue .. ':state', 'n ' .. entry.tenant, -1) == 0 then
    redis.call('HDEL', queue .. ':state', 'n ' .. entry.tenant)
    redis.call('ZREM', queue .. ':tags', entry.tenant)
    put(queue, ':debts', tag, entry.tenant)
  end
  return tonumber(tag)
end

local function charge(queue, tenant, cost)
  local tag, key = tonumber(redis.call('ZSCORE', queue .. ':tags', tenant)), ':tags'
  if not tag then tag, key = tonumber(redis.call('ZSCORE', queue .. ':debts', tenant)) or virtual_time(queue), ':debts' end
  put(queue, key, exact(tag + cost), tenant)
end

local function start(queue, id, entry)
  redis.call('ZREM', queue .. ':later', id)
  local tag = dequeue(queue, id, entry)
  if not tag then return end
  local v = math.max(virtual_time(queue), tag)
  redis.call('HSET', queue .. ':state', 'v', exact(v))
  redis.call('HINCRBY', queue .. ':state', 'started', 1)
  -- A float, because this sum grows for ever and an overflow would be an error.
  redis.call('HINCRBYFLOAT', queue .. ':state', 'started_tokens', entry.tokens)
  charge(queue, entry.tenant, entry.tokens / entry.weight)
  redis.call('ZREMRANGEBYSCORE', queue .. ':debts', '-inf', exact(v))
end

-- Returns two of the tenants with waiting jobs: enough to know whether another tenant has any. While jobs with windows
-- wait, an empty name is among them: then a tenant's own jobs may be more urgent than the one that is delivered.
local function contenders(queue)
  local tenants = redis.call('ZRANGE', queue .. ':tags', 0, 1)
  if tonumber(redis.call('HGET', queue .. ':state', 'windowed') or 0) > 0 then tenants[#tenants + 1] = '' end
  return tenants
end
