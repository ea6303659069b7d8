-- Pays tokens back to one token bucket, in one round trip, on the server's own clock. See token_bucket.lua.
--
-- KEYS[1]  the bucket
-- ARGV     refill   units that come back in a microsecond
--          units    units to pay back
--          capacity units in a full bucket
--
-- A bucket that is gone, that is full or that cannot be read stays as it is: it reads as full. So does a bucket for
-- which calls wait: they paid later and keep their turns, and one more call must not share the turn of another. The
-- payment stands then. Returns the units that are missing from a full bucket after the call.

local refill, units, capacity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local state = redis.pcall('GET', KEYS[1])
if type(state) ~= 'string' then
  return 0
end
local full, fraction, waits = string.match(state, '^(%d+):(%d+)(:?%d*w?)$')
if not full then
  return 0
end

local owed = (full - now) * refill + fraction
if owed > capacity then
  return owed
end

local missing = owed - units
if missing <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
local rest = math.fmod(missing, refill)
local micros = (missing - rest) / refill
local value = string.format('%.0f:%.0f', now + micros, rest) .. waits
redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.ceil(micros / 1000) + 1))
return missing
