-- KEYS job · ARGV statuses that may be cancelled. Marks a running job and answers its status and owner.
local status, owner = unpack(redis.call('HMGET', KEYS[1], 'status', 'owner'))
if not among(status, ARGV[1]) then return {status or '', ''} end
if owner then redis.call('HSET', KEYS[1], 'cancel', 1) end
return {status, owner or ''}
