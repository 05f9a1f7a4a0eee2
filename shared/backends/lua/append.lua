-- The appends of several jobs, each as if it were alone. Answers for each: 1, or why it is refused.
-- KEYS job log, of each · ARGV id, attempt, offset, frames, number of frames, of each
local answers = {}
for index = 1, #KEYS / 2 do
  local job, log, at = KEYS[2 * index - 1], KEYS[2 * index], 5 * index - 4
  local status, attempt, cancel, followers = unpack(redis.call('HMGET', job, 'status', 'attempt', 'cancel', 'followers'))
  if status ~= 'in_progress' or attempt ~= ARGV[at + 1] or cancel then
    answers[index] = {'fenced', status or '', cancel or ''}
  elseif not extend(job, log, ARGV[at], followers, tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4]) then
    answers[index] = {'gap', redis.call('STRLEN', log)}
  else
    answers[index] = 1
  end
end
publish()
return answers
