-- What the steps share; put in front of each. A job's keys carry its id as a hash tag, so a cluster keeps them together.
-- A live message is "<job id> <kind> <number>\n<payload>": kind f = frames at an offset, s = a new status, e = the ending.

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function tell(followers, id, kind, number, payload)
  if not followers then return end
  local message = id .. ' ' .. kind .. ' ' .. number .. '\n' .. payload
  for replica in string.gmatch(followers, '%S+') do
    redis.call('PUBLISH', 'ignite:replica:' .. replica, message)
  end
end

-- Whether the comma-separated list of statuses (from the one table, in job.py) holds this one.
local function among(status, list)
  return status and string.find(',' .. list .. ',', ',' .. status .. ',', 1, true) ~= nil
end

-- Append what is not in the log yet; a repeated append finds its bytes there and adds none. Returns the log's new size.
local function extend(job, log, id, followers, offset, data, frames)
  local size = redis.call('STRLEN', log)
  if offset > size then return nil end
  if offset + #data <= size then return size end
  local fresh = string.sub(data, size - offset + 1)
  redis.call('APPEND', log, fresh)
  redis.call('HINCRBY', job, 'chunks', frames)
  if size == 0 then
    redis.call('PEXPIRE', log, redis.call('PTTL', job))
    redis.call('HSETNX', job, 'first', now())
  end
  tell(followers, id, 'f', size, fresh)
  return size + #fresh
end

-- Write the ending; the job's keys live on for its retention, its body only where somebody may ask for it.
local function close(keys, id, followers, status, header, result)
  local job, log, body = keys[1], keys[2], keys[3]
  local at = now()
  local mode, retention, detached = unpack(redis.call('HMGET', job, 'mode', 'retention', 'detached'))
  local ttl = math.max(1, math.floor(tonumber(retention) * 1000))
  redis.call('HSET', job, 'status', status, 'ending', header, 'finished', at, 'expires', at + ttl / 1000)
  if result ~= '' then redis.call('HSET', job, 'result', result) end
  redis.call('HDEL', job, 'owner', 'lease', 'cancel', 'followers', 'base')
  redis.call('PEXPIRE', job, ttl)
  redis.call('PEXPIRE', log, ttl)
  if detached or status == 'failed' then redis.call('PEXPIRE', body, ttl) else redis.call('DEL', body) end
  local live = ''
  if mode == 'unary' and #result <= 65536 then live = result end
  tell(followers, id, 'e', redis.call('STRLEN', log), header .. '\n' .. live)
end

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

local function exact(number)
  return string.format('%.17g', number)
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

-- What a key counts as having used by now: a bucket that its limit per minute drains.
local function used(key, at, rpm, tpm)
  local requests, tokens, since = unpack(redis.call('HMGET', key, 'requests', 'tokens', 'at'))
  local minutes = math.max(0, at - (tonumber(since) or at)) / 60
  local function drained(used, limit) return limit > 0 and math.max(0, (tonumber(used) or 0) - limit * minutes) or 0 end
  return drained(requests, rpm), drained(tokens, tpm)
end

-- Kept for as long as the buckets take to drain, and a minute.
local function use(key, at, rpm, tpm, requests, tokens)
  redis.call('HSET', key, 'requests', exact(requests), 'tokens', exact(tokens),
    'at', exact(at), 'rpm', rpm, 'tpm', tpm)
  local minutes = 1 + math.max(rpm > 0 and requests / rpm or 0, tpm > 0 and tokens / tpm or 0)
  redis.call('PEXPIRE', key, math.ceil(minutes * 60000))
end
