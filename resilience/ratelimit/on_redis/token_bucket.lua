-- Decides for one token bucket, in one round trip, on the server's own clock.
--
-- KEYS[1]  the bucket: "F:R". F is the microsecond in which it is full again, R the fraction beyond it, in units
-- ARGV     token    units that one token costs
--          refill   units that come back in a microsecond
--          limit    units that may be missing after this call
--          cost     tokens wanted; 0 takes nothing
--          callers  optional: how many callers want that, one after the other
--
-- All numbers are whole and below 2^53, so arithmetic in doubles is exact, quotients rounded down included.
--
-- Without `callers` the script returns the units that are missing from a full bucket after the call. If the call does
-- not fit, it writes nothing and returns -1 minus the units that are missing now. With `callers` it returns how many of
-- them were admitted, and the units that are missing then.

local token, refill = tonumber(ARGV[1]), tonumber(ARGV[2])
local limit, cost = tonumber(ARGV[3]), tonumber(ARGV[4])
local callers = tonumber(ARGV[5])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local missing = 0
local state = redis.pcall('GET', KEYS[1])
if type(state) == 'table' and state.err and not string.find(state.err, 'WRONGTYPE', 1, true) then
  return state -- for example an ACL that forbids GET: an unreadable bucket is not a full bucket
end
if type(state) == 'string' then -- a key of another type is not a bucket: it reads as full and is overwritten
  local full, fraction = string.match(state, '^(%d+):(%d+)$')
  if full then
    missing = math.max(0, (full - now) * refill + fraction)
  end
end

local beyond = missing > limit -- the server's clock went back, or the bucket has become smaller
if beyond then
  missing = limit
end

local price = cost * token
local admitted = callers or 1
if price > 0 then
  admitted = math.min(admitted, math.floor((limit - missing) / price))
end
local after = missing + admitted * price

if after > missing or beyond then
  local fraction = math.fmod(after, refill)
  local micros = (after - fraction) / refill
  local value = string.format('%.0f:%.0f', now + micros, fraction)
  -- Expiry counts from a clock read in milliseconds and rounded down: one more keeps the key until it is really full.
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.ceil(micros / 1000) + 1))
end

if callers then
  return {admitted, after}
end
return admitted == 1 and after or -1 - after
