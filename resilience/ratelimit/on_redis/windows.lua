-- Counts calls in a window of time, in one round trip, on the server's own clock. See windows/_machine.py.
--
-- KEYS[1]  the window. By strategy:
--            fixed-window            "E:C": it ends in microsecond E, and C is used
--            sliding-window-counter  "N:P:C": in the window of number N, C is used, and P in the one before
--            moving-window           a list of calls, "T:B:A": at T, what was used in all before and after the call
-- ARGV     strategy, amount, period in microseconds
--          cost     of the call, at most the amount
--          pays     1 to count the call if it fits, 0 to look
--
-- Returns whether the call fits, a thousand times what is used then, and the microseconds until the call fits and until
-- no call counts.

local strategy, amount, period = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local cost, pays = tonumber(ARGV[4]), ARGV[5] == '1'
local key, format = KEYS[1], string.format

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function keep(value, micros)
  redis.call('SET', key, value, 'PX', format('%.0f', math.ceil(micros / 1000) + 1))
end

local function text()
  local state = redis.pcall('GET', key)
  return type(state) == 'string' and state or '' -- another value is no window: it is overwritten
end

local function found(allowed, used, retry, reset)
  return {allowed and 1 or 0, math.ceil(used * 1000), math.ceil(retry), math.ceil(reset)}
end

if strategy == 'fixed-window' then
  local ends, count = string.match(text(), '^(%d+):(%d+)$')
  ends, count = tonumber(ends) or 0, tonumber(count) or 0
  if now >= ends or ends > now + period then -- beyond: the server's clock went back
    ends, count = now + period, 0
  end
  local allowed = count + cost <= amount
  if allowed and pays then
    count = count + cost
    keep(format('%.0f:%.0f', ends, count), ends - now)
  end
  return found(allowed, count, allowed and 0 or ends - now, count > 0 and ends - now or 0)
end

if strategy == 'sliding-window-counter' then
  local number, passed = math.floor(now / period), math.fmod(now, period)
  local known, previous, current = string.match(text(), '^(%d+):(%d+):(%d+)$')
  known, previous, current = tonumber(known), tonumber(previous) or 0, tonumber(current) or 0
  if known and known == number - 1 then
    previous, current = current, 0
  elseif known ~= number then
    previous, current = 0, 0
  end
  local left = period - passed
  local used = previous * left / period + current
  local allowed, retry = used + cost <= amount, 0
  if not allowed then
    local room = amount - cost
    if current <= room then
      retry = left - (room - current) * period / previous
    else
      retry = left + period * (1 - room / current)
    end
  elseif pays then
    current, used = current + cost, used + cost
    keep(format('%.0f:%.0f:%.0f', number, previous, current), left + period)
  end
  return found(allowed, used, retry, current > 0 and left + period or previous > 0 and left or 0)
end

local kind = redis.call('TYPE', key).ok -- another kind is no window: it is overwritten, but not by a look
local function call_at(position)
  if kind ~= 'list' then
    return nil
  end
  local call = redis.call('LINDEX', key, position)
  local came, before, after = string.match(call or '', '^(%d+):(%d+):(%d+)$')
  return tonumber(came), tonumber(before), tonumber(after)
end

local first, from = call_at(0)
if first and first + period <= now then -- some are over: find the first one that counts
  local low, high = 1, redis.call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if call_at(middle) + period <= now then
      low = middle + 1
    else
      high = middle
    end
  end
  redis.call('LTRIM', key, low, -1)
  first, from = call_at(0)
end
local last, _, total = call_at(-1)
local used = last and total - from or 0
local excess = used + cost - amount
if excess > 0 then
  local retry = 0
  for _, call in ipairs(redis.call('LRANGE', key, 0, excess - 1)) do -- each call has used 1 or more
    local came, after = string.match(call, '^(%d+):%d+:(%d+)$')
    if tonumber(after) >= from + excess then
      retry = came + period - now
      break
    end
  end
  return found(false, used, retry, last + period - now)
end
if pays then
  if kind ~= 'list' and kind ~= 'none' then
    redis.call('DEL', key)
  end
  local before = last and total or 0
  redis.call('RPUSH', key, format('%.0f:%.0f:%.0f', now, before, before + cost))
  redis.call('PEXPIRE', key, format('%.0f', math.ceil(period / 1000) + 1))
  last, used = now, used + cost
end
return found(true, used, 0, last and last + period - now or 0)
