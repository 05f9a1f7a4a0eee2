-- More room for a job's log. In a cluster its tenant's count is at another node: it answers what is to be taken there, and
-- is called again.
-- KEYS job · ARGV attempt, room, 1 if it was taken there
local status, running, account, held, till, room, apart =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'account', 'held', 'till', 'room', 'apart'))
if status ~= 'in_progress' or running ~= ARGV[1] then return {'fenced', status or '', ''} end
local more = tonumber(ARGV[2]) - tonumber(room or 0)
if not account or more <= 0 then return {'ok'} end
if not apart then
  local at = now()
  local total, limit = kept_by(account, at), tonumber(redis.call('HGET', account, 'limit') or 0)
  if limit > 0 and total + more > limit then return {'full', total, limit} end
  keep(account, at, tonumber(till), more)
elseif ARGV[3] ~= '1' then
  return {'apart', account, till, more}
end
redis.call('HSET', KEYS[1], 'held', string.format('%d', held + more), 'room', ARGV[2])
return {'ok'}
