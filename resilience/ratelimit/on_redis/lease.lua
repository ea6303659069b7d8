-- Pays tokens back to one token bucket, and takes as many as there are, in one round trip, on the server's own clock.
-- The bucket is that of token_bucket.lua.
--
-- KEYS[1]  the bucket: "F:R". F is the microsecond in which it is full again, R the fraction beyond it, in units
-- ARGV     token    units that one token costs
--          refill   units that come back in a microsecond
--          limit    units in a full bucket
--          returned tokens to pay back
--          minimum  the fewest tokens to take: if they do not fit, the script takes none
--          wanted   the most tokens to take
--
-- All numbers are whole and below 2^53, so arithmetic in doubles is exact, quotients rounded down included.
--
-- Returns the tokens taken, and the units that are missing from a full bucket after the call.

local token, refill, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local returned, minimum, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local before, waits, turns = 0, 0, ''
local state = redis.pcall('GET', KEYS[1])
if type(state) == 'table' and state.err and not string.find(state.err, 'WRONGTYPE', 1, true) then
  return state -- for example an ACL that forbids GET: an unreadable bucket is not a full bucket
end
if type(state) == 'string' then -- a key of another type is not a bucket: it reads as full and is overwritten
  local full, fraction, rest = string.match(state, '^(%d+):(%d+)(.*)$')
  local patience = rest and string.match(rest, '^:(%d+)w$')
  if patience then -- calls wait for their turns, and keep them (rates.lua)
    waits, turns = patience * refill, rest
  end
  if full then
    before = math.max(0, (full - now) * refill + fraction)
  end
end

-- The server's clock went back, or the bucket has become smaller: `limit` units are missing at most.
local missing = math.max(0, math.min(limit + waits, before) - returned * token)
local granted = math.max(0, math.min(wanted, math.floor((limit - missing) / token)))
if granted < minimum then
  granted = 0
end
local after = missing + granted * token

if after ~= before then
  if after == 0 then
    redis.call('DEL', KEYS[1])
  else
    local fraction = math.fmod(after, refill)
    local micros = (after - fraction) / refill
    local value = string.format('%.0f:%.0f', now + micros, fraction) .. turns
    -- Expiry counts from a clock read in milliseconds and rounded down: one more keeps the key until it is really full.
    redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.ceil(micros / 1000) + 1))
  end
end
return {granted, after}
