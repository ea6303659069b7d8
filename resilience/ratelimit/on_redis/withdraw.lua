-- Gives the tokens of one call back: it was cancelled, or did not take place. See rates.lua for the buckets.
--
-- KEYS[1]  the buckets
-- ARGV     cost      tokens that the call has paid
--          and for each rate:
--          token, refill, capacity   as in rates.lua
--          full, fraction            F and R as the payment left them
--
-- If no call waits for its turn, the tokens go into the buckets. Else they go back if no later call has paid: later calls
-- keep their turns, and one more call must not share the turn of another. Such a payment is noted. It goes back when all
-- later ones have gone back. Returns 1 if the tokens are in the buckets, 0 if the payment was noted.

local cost = tonumber(ARGV[1])
local rates = (#ARGV - 1) / 5
local notes = KEYS[1] .. ':withdrawn:' -- in the same hash slot: the tag is a part of both keys

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local state = redis.pcall('GET', KEYS[1])
if type(state) ~= 'string' then
  return 1 -- a bucket that is gone is full
end
local fulls, fractions = {}, {}
for full, fraction in string.gmatch(state, '(%d+):(%d+)') do
  fulls[#fulls + 1], fractions[#fractions + 1] = tonumber(full), tonumber(fraction)
end
if #fulls ~= rates then
  return 1
end
local waits = string.match(state, ':%d+w$') or ''

local function mark(a, b)
  local parts = {}
  for i = 1, rates do
    parts[i] = string.format('%.0f:%.0f', a[i], b[i])
  end
  return table.concat(parts, ' ')
end

local function undo(tokens)
  for i = 1, rates do
    local price, refill = tokens * tonumber(ARGV[5 * i - 3]), tonumber(ARGV[5 * i - 2])
    local rest = math.fmod(price, refill)
    fulls[i], fractions[i] = fulls[i] - (price - rest) / refill, fractions[i] - rest
    if fractions[i] < 0 then
      fulls[i], fractions[i] = fulls[i] - 1, fractions[i] + refill
    end
  end
end

local is_waiting, paid_fulls, paid_fractions = false, {}, {}
for i = 1, rates do
  local refill, capacity = tonumber(ARGV[5 * i - 2]), tonumber(ARGV[5 * i - 1])
  is_waiting = is_waiting or (fulls[i] - now) * refill + fractions[i] > capacity
  paid_fulls[i], paid_fractions[i] = tonumber(ARGV[5 * i]), tonumber(ARGV[5 * i + 1])
end

local paid = mark(paid_fulls, paid_fractions)
if is_waiting and mark(fulls, fractions) ~= paid then
  local longest = 0
  for i = 1, rates do
    longest = math.max(longest, fulls[i] - now)
  end
  redis.call('SET', notes .. paid, ARGV[1], 'PX', string.format('%.0f', math.ceil(longest / 1000) + 1))
  return 0
end

undo(cost)
if is_waiting then
  local note = notes .. mark(fulls, fractions)
  local before = redis.call('GET', note)
  while before do
    redis.call('DEL', note)
    undo(tonumber(before))
    note = notes .. mark(fulls, fractions)
    before = redis.call('GET', note)
  end
end

local longest = 0
for i = 1, rates do
  longest = math.max(longest, fulls[i] - now)
end
if longest <= 0 then
  redis.call('DEL', KEYS[1])
  return 1
end
for i = 1, rates do -- a rate whose bucket is full, beside one that is not
  if fulls[i] < now then
    fulls[i], fractions[i] = now, 0
  end
end
redis.call('SET', KEYS[1], mark(fulls, fractions) .. waits, 'PX', string.format('%.0f', math.ceil(longest / 1000) + 1))
return 1
