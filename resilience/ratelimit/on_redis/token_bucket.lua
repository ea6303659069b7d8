-- Decides for token buckets, in one round trip, on the server's own clock.
--
-- KEYS  the buckets: "F:R". F is the microsecond in which a bucket is full again, R the fraction beyond it, in units.
--       ":Ww" follows if calls wait for their turn: W is how many microseconds the most patient may wait (rates.lua)
-- ARGV  one demand on the one bucket:
--         token    units that one token costs
--         refill   units that come back in a microsecond
--         limit    units that may be missing after this call
--         cost     tokens wanted; 0 takes nothing
--       or such demands, one after the other, each followed by two more numbers:
--         callers  how many callers want that from each bucket, one after the other
--         buckets  how many buckets, in the order of KEYS, the demand is for
--
-- All numbers are whole and below 2^53, so arithmetic in doubles is exact, quotients rounded down included.
--
-- For one demand the script returns the units that are missing from a full bucket after the call. If the call does not
-- fit, it writes nothing and returns -1 minus the units that are missing now.
--
-- For demands with `callers` it returns a text of two numbers for each bucket: how many callers were admitted, and the
-- units that are missing then. One text is read faster than a list of numbers. If a bucket has an error, its numbers are
-- -1 and the position of the error in a list, which the script returns then: the text, and the errors. The error of one
-- bucket does not fail the others.

local format = string.format

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- An error without a code of its own is about this bucket: the server works.
local function own(failure)
  return {err = (string.gsub(failure.err, '^ERR ', 'SCRIPT '))}
end

-- Returns the callers that were admitted and the units missing then; nil and the error if the bucket cannot be used.
local function decide(key, token, refill, limit, cost, callers)
  local missing, waits = 0, 0
  local state = redis.pcall('GET', key)
  if type(state) == 'string' then
    local full, fraction = string.match(state, '^(%d+):(%d+)$')
    if not full then
      full, fraction, waits = string.match(state, '^(%d+):(%d+):(%d+)w$')
      waits = (tonumber(waits) or 0) * refill
    end
    if full then -- another text is not a bucket: it reads as full and is overwritten
      missing = (full - now) * refill + fraction
      if missing < 0 then
        missing = 0
      end
    end
  elseif type(state) == 'table' and state.err and not string.find(state.err, 'WRONGTYPE', 1, true) then
    -- For example an ACL that forbids GET: an unreadable bucket is not a full bucket. A key of another type is one.
    return nil, own(state)
  end

  local beyond = missing > limit + waits -- the server's clock went back, or the bucket has become smaller
  if beyond then
    missing = limit
  end

  local price = cost * token
  local admitted = callers
  if price > 0 then
    local fitting = math.floor((limit - missing) / price)
    if fitting < admitted then
      admitted = math.max(0, fitting) -- below 0 while calls wait for their turn
    end
  end
  local after = missing + admitted * price

  if after > missing or beyond then
    local fraction = math.fmod(after, refill)
    local micros = (after - fraction) / refill
    -- Expiry counts from a clock read in milliseconds and rounded down: one more keeps the key until it is really full.
    local expiry = math.ceil(micros / 1000) + 1 -- the server passes a number on with all its digits
    local written = redis.pcall('SET', key, format('%.0f:%.0f', now + micros, fraction), 'PX', expiry)
    if written.err then
      return nil, own(written)
    end
  end
  return admitted, after
end

if #ARGV == 4 then
  local token, refill, limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
  local admitted, after = decide(KEYS[1], token, refill, limit, cost, 1)
  if admitted == 0 then
    return -1 - after
  end
  return after -- or the error
end

local answers, errors, position = {}, {}, 0
for at = 1, #ARGV, 6 do
  local token, refill, limit = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local cost, callers = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  for _ = 1, tonumber(ARGV[at + 5]) do
    position = position + 1
    local admitted, after = decide(KEYS[position], token, refill, limit, cost, callers)
    if not admitted then
      errors[#errors + 1] = after
      admitted, after = -1, #errors
    end
    answers[position] = format('%.0f %.0f', admitted, after)
  end
end
local text = table.concat(answers, ' ')
if #errors == 0 then
  return text
end
return {text, unpack(errors)}
