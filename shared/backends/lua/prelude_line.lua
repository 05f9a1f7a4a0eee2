-- ── a queue's line: shared/fairness.py in Redis. `line` begins the names of its keys, which are all in one slot:
-- :open id → place (see keys.open_jobs) · :jobs id → "<tokens> <weight> <tenant>" · :lines "<tenant>\0<id>" of those that wait
-- :tags tenant → tag of those with jobs waiting · :debts the same of the others · :later id → when it waits again
-- :state v (virtual time), tokens (that wait), n <tenant> (jobs that wait), c <id> (what its delivery carries), started

local RUNNING = 1e10
local LINE_KEYS = {':open', ':jobs', ':lines', ':tags', ':debts', ':later', ':state'}

local function entry_of(line, id)
  local entry = redis.call('HGET', line .. ':jobs', id)
  if not entry then return nil end
  local tokens, weight, tenant = string.match(entry, '^(%S+) (%S+) (.*)$')
  return {tenant = tenant, tokens = tonumber(tokens), weight = tonumber(weight)}
end

local function virtual(line)
  return tonumber(redis.call('HGET', line .. ':state', 'v') or 0)
end

local function in_line(entry, id)
  return entry.tenant .. '\0' .. id
end

-- Keys that have come into being since live as long as the others; all of them for `ttl` ms at least, where it is given.
local function last(line, ttl)
  local left = redis.call('PTTL', line .. ':state')
  local longer = ttl and left < ttl
  if longer then left = ttl + 3600000 end
  if left < 0 then left = 3600000 end
  for _, key in ipairs(LINE_KEYS) do
    if longer or redis.call('PTTL', line .. key) == -1 then redis.call('PEXPIRE', line .. key, left) end
  end
end

local function enter(line, id, entry)
  if redis.call('ZADD', line .. ':lines', 0, in_line(entry, id)) == 0 then return end
  redis.call('HINCRBY', line .. ':state', 'tokens', entry.tokens)
  if redis.call('HINCRBY', line .. ':state', 'n ' .. entry.tenant, 1) == 1 then
    local debt = tonumber(redis.call('ZSCORE', line .. ':debts', entry.tenant) or 0)
    redis.call('ZADD', line .. ':tags', exact(math.max(virtual(line), debt)), entry.tenant)
    redis.call('ZREM', line .. ':debts', entry.tenant)
  end
end

-- Its tenant's tag, where it was in line.
local function exit(line, id, entry)
  if redis.call('ZREM', line .. ':lines', in_line(entry, id)) == 0 then return nil end
  local tag = redis.call('ZSCORE', line .. ':tags', entry.tenant)
  redis.call('HINCRBY', line .. ':state', 'tokens', -entry.tokens)
  if redis.call('HINCRBY', line .. ':state', 'n ' .. entry.tenant, -1) == 0 then
    redis.call('HDEL', line .. ':state', 'n ' .. entry.tenant)
    redis.call('ZREM', line .. ':tags', entry.tenant)
    redis.call('ZADD', line .. ':debts', tag, entry.tenant)
  end
  return tonumber(tag)
end

local function charge(line, tenant, cost)
  local key = redis.call('ZSCORE', line .. ':tags', tenant) and ':tags' or ':debts'
  local tag = tonumber(redis.call('ZSCORE', line .. key, tenant)) or virtual(line)
  redis.call('ZADD', line .. key, exact(tag + cost), tenant)
end

local function start(line, id, entry)
  redis.call('ZREM', line .. ':later', id)
  local tag = exit(line, id, entry)
  if not tag then return end
  local v = math.max(virtual(line), tag)
  redis.call('HSET', line .. ':state', 'v', exact(v))
  redis.call('HINCRBY', line .. ':state', 'started', 1)
  charge(line, entry.tenant, entry.tokens / entry.weight)
  redis.call('ZREMRANGEBYSCORE', line .. ':debts', '-inf', exact(v))
end

-- Two of the tenants that have jobs waiting: enough to know whether somebody else does.
local function contenders(line)
  return redis.call('ZRANGE', line .. ':tags', 0, 1)
end

-- ── limits of keys (shared/limits.py) ──
