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

-- Keys of the line that this step may have brought into being.
local made = {}

-- They live as long as the others; all of them for `ttl` ms at least, where it is given.
local function last(line, ttl)
  if not ttl and not next(made) then return end
  local left = redis.call('PTTL', line .. ':state')
  local longer = ttl and left < ttl
  if longer then left = ttl + 3600000 end
  if left < 0 then left = 3600000 end
  if longer then
    for _, key in ipairs(LINE_KEYS) do redis.call('PEXPIRE', line .. key, left) end
    return
  end
  for key in pairs(made) do
    if redis.call('PTTL', line .. key) == -1 then redis.call('PEXPIRE', line .. key, left) end
  end
end

-- Whether the member is new in the set; if so, the set may be.
local function put(line, key, score, member)
  local new = redis.call('ZADD', line .. key, score, member) == 1
  if new then made[key] = true end
  return new
end

local function enter(line, id, entry)
  if not put(line, ':lines', 0, in_line(entry, id)) then return end
  made[':state'] = true
  redis.call('HINCRBY', line .. ':state', 'tokens', entry.tokens)
  if redis.call('HINCRBY', line .. ':state', 'n ' .. entry.tenant, 1) == 1 then
    local debt = tonumber(redis.call('ZSCORE', line .. ':debts', entry.tenant) or 0)
    put(line, ':tags', exact(math.max(virtual(line), debt)), entry.tenant)
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
    put(line, ':debts', tag, entry.tenant)
  end
  return tonumber(tag)
end

local function charge(line, tenant, cost)
  local tag, key = tonumber(redis.call('ZSCORE', line .. ':tags', tenant)), ':tags'
  if not tag then tag, key = tonumber(redis.call('ZSCORE', line .. ':debts', tenant)) or virtual(line), ':debts' end
  put(line, key, exact(tag + cost), tenant)
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
