-- Counts the live instances of a fleet, on the server's own clock, and keeps this one among them.
--
-- KEYS[1]  a sorted set: the id of each instance, by the millisecond after which it counts as dead
-- ARGV     instance   the id of the caller
--          lifetime   milliseconds for which a beat keeps its instance alive; 0 to leave at once
--          most       how many dead instances to remove in one beat
--
-- Returns how many instances are alive.

local instance, lifetime, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if lifetime > 0 then
  redis.call('ZADD', KEYS[1], now + lifetime, instance)
  redis.call('PEXPIRE', KEYS[1], 2 * lifetime)
  -- The server's clock went back, as it may at a failover: an instance that died before it would live for long.
  redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 2 * lifetime, '+inf')
else
  redis.call('ZREM', KEYS[1], instance)
end

local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, most)
if #dead > 0 then
  redis.call('ZREM', KEYS[1], unpack(dead))
end
return redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf')
