-- Decisions of one token bucket, in one round trip, on the server's own clock.
--
-- KEYS[1]  the bucket: "F:R", the microsecond at which it is full again and the fraction of one beyond it, in units
-- ARGV     token    units that one token costs
--          refill   units that come back per microsecond
--          limit    units that may be missing after this call
--          cost     tokens wanted; 0 only looks
--          callers  how many want that, one after the other; where it is left out, one
--
-- All numbers are whole and below 2^53, so that arithmetic in doubles is exact, quotients rounded down included. Returns
-- the units missing from a full bucket afterwards, or -1 minus the units missing now where the call does not fit (and
-- then nothing is written). Given `callers`, it returns how many of them were admitted, and the units missing then.

local token, refill = tonumber(ARGV[1]), tonumber(ARGV[2])
local limit, cost = tonumber(ARGV[3]), tonumber(ARGV[4])
local callers = tonumber(ARGV[5])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local missing = 0
local state = redis.pcall('GET', KEYS[1])
if type(state) == 'table' and state.err and not string.find(state.err, 'WRONGTYPE', 1, true) then
  return state -- an ACL that forbids GET, for one: a bucket that cannot be read is not a full one
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
