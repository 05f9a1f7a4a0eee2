-- Reserves more room for a job's log in its tenant's account. Where the account is on another node of a cluster, it
-- answers what to reserve there, and is called again afterwards.
-- KEYS job · ARGV attempt, room in bytes, 1 if it was reserved on the other node
local attempt, wanted, granted = unpack(ARGV)
local status, running, account, held, till, room, apart =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'account', 'held', 'till', 'room', 'apart'))
if status ~= 'in_progress' or running ~= attempt then return {'fenced', status or '', ''} end
local more = tonumber(wanted) - tonumber(room or 0)
if not account or more <= 0 then return {'ok'} end
if not apart then
  local at = now()
  local total, limit = kept_bytes(account, at), tonumber(redis.call('HGET', account, 'limit') or 0)
  if limit > 0 and total + more > limit then return {'full', total, limit} end
  add_kept(account, at, tonumber(till), more)
elseif granted ~= '1' then
  return {'apart', account, till, more}
end
redis.call('HSET', KEYS[1], 'held', string.format('%d', held + more), 'room', wanted)
return {'ok'}
