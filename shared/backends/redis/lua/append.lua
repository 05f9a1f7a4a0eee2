-- Appends frames to the logs of several jobs, each on its own. Answers for each: 1, or the reason it is refused. Of
-- several, an append that fails is 'elsewhere': a cluster's node finds only by trying that it no longer has a job.
-- KEYS job and log of each; in a cluster of the first only · ARGV id, attempt, offset, frames, number of frames of each
local function append(job, log, id, attempt, offset, data, frames)
  local status, running, cancel, followers = unpack(redis.call('HMGET', job, 'status', 'attempt', 'cancel', 'followers'))
  if status ~= 'in_progress' or running ~= attempt or cancel then return {'fenced', status or '', cancel or ''} end
  if not extend(job, log, id, followers, tonumber(offset), data, frames) then
    return {'gap', redis.call('STRLEN', log)}
  end
  return 1
end

if #ARGV == 5 then
  local answer = append(KEYS[1], KEYS[2], unpack(ARGV))
  publish()
  return {answer}
end
local answers = {}
for index = 1, #ARGV / 5 do
  local at = 5 * index - 4
  local id = ARGV[at]
  local job, log = KEYS[2 * index - 1], KEYS[2 * index]
  if not job then job, log = 'ignite:{' .. id .. '}:job', 'ignite:{' .. id .. '}:log' end
  local done, answer = pcall(append, job, log, id, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
  answers[index] = done and answer or {'elsewhere'}
end
publish()
return answers
