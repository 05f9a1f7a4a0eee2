-- Marks a running job as being cancelled. Answers its status and owner.
-- KEYS job · ARGV statuses that may be cancelled
local cancellable = unpack(ARGV)
local status, owner = unpack(redis.call('HMGET', KEYS[1], 'status', 'owner'))
if not among(status, cancellable) then return {status or '', ''} end
if owner then redis.call('HSET', KEYS[1], 'cancel', 1) end
return {status, owner or ''}
