-- Writes the ending. The job's keys expire after its retention; its body is kept only if the job keeps its request,
-- is detached (by a reattached call) or failed.
-- `size`: bytes of the log. Returns the job's queue, whether it has a webhook, its limit key, what set_kept returns,
-- the log's number of frames, and whether it has a progress.
local function close(keys, id, followers, status, header, result, size)
  local job, log, body = keys[1], keys[2], keys[3]
  local at = now()
  local mode, retention, detached, keeps, queue, webhook, key, base, chunks, progress =
    unpack(redis.call('HMGET', job, 'mode', 'retention', 'detached', 'keeps', 'queue', 'webhook', 'key', 'base_bytes',
      'chunks', 'progress'))
  local ttl = math.max(1, math.floor(tonumber(retention) * 1000))
  local fields = {'status', status, 'ending', header, 'finished', at, 'expires', at + ttl / 1000}
  if result ~= '' then
    fields[9], fields[10] = 'result', result
  end
  redis.call('HSET', job, unpack(fields))
  redis.call('HDEL', job, 'owner', 'lease', 'cancel', 'followers', 'base', 'progress')
  redis.call('PEXPIRE', job, ttl)
  if size > 0 then redis.call('PEXPIRE', log, ttl) end
  local kept = (base or 0) + #header + #result + size
  if detached or keeps or status == 'failed' then
    redis.call('PEXPIRE', body, ttl)
    kept = kept + redis.call('STRLEN', body)
  else
    redis.call('DEL', body)
  end
  local moved = set_kept(job, at, bucket_at(at, ttl / 1000), kept)
  local live = ''
  if mode == 'unary' and #result <= 65536 then live = result end
  notify(followers, id, 'e', size, header .. '\n' .. live)
  publish()
  return queue, webhook or '', key or '', moved, tonumber(chunks or 0), progress or ''
end
