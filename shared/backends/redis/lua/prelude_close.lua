-- Write the ending; the job's keys live on for its retention, its body only where somebody may ask for it. `size`: of the
-- log. Answers the job's queue, whether it has a webhook, the key that counts it, what a cluster's other node is to
-- hear of what its tenant keeps, and how many frames its log has.
local function close(keys, id, followers, status, header, result, size)
  local job, log, body = keys[1], keys[2], keys[3]
  local at = now()
  local mode, retention, detached, queue, webhook, key, base, chunks =
    unpack(redis.call('HMGET', job, 'mode', 'retention', 'detached', 'queue', 'webhook', 'key', 'base_bytes', 'chunks'))
  local ttl = math.max(1, math.floor(tonumber(retention) * 1000))
  local fields = {'status', status, 'ending', header, 'finished', at, 'expires', at + ttl / 1000}
  if result ~= '' then
    fields[9], fields[10] = 'result', result
  end
  redis.call('HSET', job, unpack(fields))
  redis.call('HDEL', job, 'owner', 'lease', 'cancel', 'followers', 'base')
  redis.call('PEXPIRE', job, ttl)
  if size > 0 then redis.call('PEXPIRE', log, ttl) end
  local kept = (base or 0) + #header + #result + size
  if detached or status == 'failed' then
    redis.call('PEXPIRE', body, ttl)
    kept = kept + redis.call('STRLEN', body)
  else
    redis.call('DEL', body)
  end
  local moved = keeps(job, at, bucket_at(at, ttl / 1000), kept)
  local live = ''
  if mode == 'unary' and #result <= 65536 then live = result end
  tell(followers, id, 'e', size, header .. '\n' .. live)
  publish()
  return queue, webhook or '', key or '', moved, tonumber(chunks or 0)
end
