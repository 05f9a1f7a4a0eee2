-- Appends frames to the logs of several jobs, each on its own, and what they add to the job's progress. Answers for each: 1, or the reason it is refused. Of
-- several, an append that fails is 'elsewhere': a cluster's node finds only by trying that it no longer has a job.
-- KEYS job and log of each; in a cluster of the first only, and its progress where the step is one append
-- ARGV id, attempt, offset, frames, number of frames, offset in the progress, progress or '' of each

-- At offset 0 it replaces the progress. Progress with a gap is of no use, and is dropped.
local function extend_progress(job, id, offset, data)
  local name = 'ignite:{' .. id .. '}:progress'
  if offset == '0' then
    local deadline = tonumber(redis.call('HGET', job, 'deadline') or 0)
    redis.call('SET', name, data, 'PX', math.max(1000, math.floor((deadline - now() + 60) * 1000)))
    redis.call('HSET', job, 'progress', 1)
  elseif not append_at(name, tonumber(offset), data) then
    redis.call('DEL', name)
  end
end

local function append(job, log, id, attempt, offset, data, frames, progress_offset, progress)
  local status, running, cancel, followers = unpack(redis.call('HMGET', job, 'status', 'attempt', 'cancel', 'followers'))
  if status ~= 'in_progress' or running ~= attempt or cancel then return {'fenced', status or '', cancel or ''} end
  if progress ~= '' then extend_progress(job, id, progress_offset, progress) end
  if not extend(job, log, id, followers, tonumber(offset), data, frames) then
    return {'gap', redis.call('STRLEN', log)}
  end
  return 1
end

if #ARGV == 7 then
  local answer = append(KEYS[1], KEYS[2], unpack(ARGV))
  publish()
  return {answer}
end
local answers = {}
for index = 1, #ARGV / 7 do
  local at = 7 * index - 6
  local id = ARGV[at]
  local job, log = KEYS[2 * index - 1], KEYS[2 * index]
  if not job then job, log = 'ignite:{' .. id .. '}:job', 'ignite:{' .. id .. '}:log' end
  local done, answer = pcall(append, job, log, id, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5],
    ARGV[at + 6])
  answers[index] = done and answer or {'elsewhere'}
end
publish()
return answers
