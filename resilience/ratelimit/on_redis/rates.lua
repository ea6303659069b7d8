-- Decides for the buckets of one key, one for each rate of a limiter, in one round trip, on the server's own clock.
--
-- KEYS[1]  the buckets: "F:R" for each rate, with a blank in between, as in token_bucket.lua; then ":W" if calls wait for
--          their turn. W is how many microseconds the most patient of them may wait
-- ARGV     pays      1 to pay, 0 to look
--          cost      tokens wanted
--          patience  microseconds that the call may wait for its turn
--          and for each rate:
--          token     units that one token costs
--          refill    units that come back in a microsecond
--          capacity  units in a full bucket
--
-- All numbers are whole and below 2^53. Either all rates are paid or none.
--
-- Returns 1 if the call fits, else 0. Then, for each rate: the units that are missing after the call, F and R.

local pays, cost, patience = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local rates = (#ARGV - 3) / 3

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local state = redis.pcall('GET', KEYS[1])
if type(state) == 'table' and state.err and not string.find(state.err, 'WRONGTYPE', 1, true) then
  return state
end
local fulls, fractions, waits = {}, {}, 0
if type(state) == 'string' then
  for full, fraction in string.gmatch(state, '(%d+):(%d+)') do
    fulls[#fulls + 1], fractions[#fractions + 1] = tonumber(full), tonumber(fraction)
  end
  waits = tonumber(string.match(state, '^[%d: ]+:(%d+)w$') or 0)
end

local missing, fits, is_below, is_beyond = {}, true, false, false
for i = 1, rates do
  local token, refill, capacity = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])
  local units = 0
  if #fulls == rates then -- else: not a value of these rates, which reads as full buckets
    units = math.max(0, (fulls[i] - now) * refill + fractions[i])
  end
  local deepest = capacity + math.max(waits, patience) * refill
  if units > deepest then -- the server's clock went back, or the bucket has become smaller
    units, is_beyond = deepest, true
  end
  missing[i] = units
  is_below = is_below or units > capacity
  fits = fits and cost * token <= capacity and units + cost * token <= capacity + patience * refill
end

local writes = pays and (fits or is_beyond)
local values, reply, longest = {}, { fits and 1 or 0 }, 0
for i = 1, rates do
  local token, refill, capacity = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])
  local units = missing[i]
  if pays and fits then
    units = units + cost * token
    is_below = is_below or units > capacity
  end
  local fraction = math.fmod(units, refill)
  local micros = (units - fraction) / refill
  values[i] = string.format('%.0f:%.0f', now + micros, fraction)
  longest = math.max(longest, micros)
  reply[3 * i - 1], reply[3 * i], reply[3 * i + 1] = units, now + micros, fraction
end
if writes then
  local value = table.concat(values, ' ')
  if is_below then
    value = value .. string.format(':%.0fw', math.max(waits, patience))
  end
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.ceil(longest / 1000) + 1))
end
return reply
