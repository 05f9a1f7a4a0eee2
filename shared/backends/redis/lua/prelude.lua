-- Shared by all steps; put in front of each. A job's keys carry its id as a hash tag, so a cluster keeps them together.
-- A step publishes one message to each replica: "<job id> <kind> <number> <size>\n<payload>", once or repeatedly;
-- kind f = frames at an offset, s = a new status, e = the ending.

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local messages = {}

local function notify(followers, id, kind, number, payload)
  if not followers then return end
  for replica in string.gmatch(followers, '%S+') do
    local parts = messages[replica] or {}
    parts[#parts + 1] = id .. ' ' .. kind .. ' ' .. number .. ' ' .. #payload .. '\n'
    parts[#parts + 1] = payload
    messages[replica] = parts
  end
end

-- Every step that calls notify calls this at its end.
local function publish()
  for replica, parts in pairs(messages) do redis.call('PUBLISH', 'ignite:replica:' .. replica, table.concat(parts)) end
end

-- Whether the comma-separated list of statuses (from the one table, in job.py) contains this one.
local function among(status, list)
  return status and string.find(',' .. list .. ',', ',' .. status .. ',', 1, true) ~= nil
end

-- Appends what the string does not have yet. Returns its size before and what was added, or nil on a gap.
-- It appends first and checks the offset afterwards, because nearly every append belongs at the end.
local function append_at(name, offset, data)
  local before = redis.call('APPEND', name, data) - #data
  if before == offset then return before, data end
  if before == 0 then redis.call('DEL', name)
  else redis.call('SET', name, redis.call('GETRANGE', name, 0, before - 1), 'KEEPTTL') end
  if offset > before then return nil end
  if offset + #data <= before then return before, '' end
  return append_at(name, before, string.sub(data, before - offset + 1))
end

-- Appends what is not in the log yet; a repeated append adds nothing. Returns the log's new size, or nil on a gap.
local function extend(job, log, id, followers, offset, data, frames)
  local before, added = append_at(log, offset, data)
  if not before then return nil end
  if added == '' then return before end
  redis.call('HINCRBY', job, 'chunks', frames)
  if before == 0 then
    redis.call('PEXPIRE', log, redis.call('PTTL', job))
    redis.call('HSETNX', job, 'first', now())
  end
  notify(followers, id, 'f', before, added)
  return before + #added
end

local function exact(number)
  return string.format('%.17g', number)
end
