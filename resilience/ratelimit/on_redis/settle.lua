-- Empties a token bucket to a level, after an outage in which instances decided without it. See token_bucket.lua.
--
-- KEYS[1]  the bucket
-- ARGV     refill   units that come back in a microsecond
--          units    units that are missing at least, as an instance knows it
--
-- A server that has lost its data would give each key a full bucket once more. A bucket that misses more stays as it
-- is, so that the instances may come back one after the other. Returns the units that are missing then.

local refill, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local state = redis.pcall('GET', KEYS[1])
if type(state) == 'string' then
  local full, fraction = string.match(state, '^(%d+):(%d+):?%d*w?$')
  if full and (full - now) * refill + fraction >= wanted then
    return (full - now) * refill + fraction
  end
end

local rest = math.fmod(wanted, refill)
local micros = (wanted - rest) / refill
local value = string.format('%.0f:%.0f', now + micros, rest)
redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.ceil(micros / 1000) + 1))
return wanted
