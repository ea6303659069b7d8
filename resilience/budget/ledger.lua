-- Leases a part of the retry budget of a fleet to one instance, on the server's own clock. O(log n) of the instances.
--
-- KEYS[1]  a hash: the record of each instance, "sequence:firsts:lease", and the sums "firsts" and "leased" of them
-- KEYS[2]  a sorted set: the instances, by the millisecond in which the record ends
-- ARGV     instance   the id of the caller; an id is hexadecimal, so it is no name of a sum
--          sequence   grows with each request of the instance: a request that was overtaken changes nothing
--          firsts     calls of the instance at their first attempt
--          held       what it keeps of its lease, at least its attempts in flight
--          want       the lease that it would like
--          ratio      millionths of an attempt for each of `firsts`
--          minimum    attempts that the fleet may always have
--          lifetime   milliseconds of the record
--
-- An instance lowers its lease by itself before it asks, so the script never takes back what it holds: the reply may be
-- lost. Returns the lease and the limit of the fleet; -1 as the lease if the request was overtaken.

local records, ends, instance = KEYS[1], KEYS[2], ARGV[1]
local sequence, firsts, held, want = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local ratio, minimum, lifetime = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function forget(id)
  local record = redis.call('HGET', records, id)
  local number, calls, lease = string.match(record or '', '^(%d+):(%d+):(%d+)$')
  if number then
    redis.call('HINCRBY', records, 'firsts', string.format('%.0f', 0 - calls))
    redis.call('HINCRBY', records, 'leased', string.format('%.0f', 0 - lease))
  end
  redis.call('HDEL', records, id)
  redis.call('ZREM', ends, id)
  return tonumber(number)
end

local sums = redis.call('HEXISTS', records, 'leased') == 1 and 2 or 0
if redis.call('HLEN', records) - sums ~= redis.call('ZCARD', ends) then -- the server has evicted one of the keys
  redis.call('DEL', records, ends)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  if id ~= instance then
    forget(id)
  end
end
-- The server's clock went back: a record from before would last for long.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, now + 2 * lifetime, '+inf', 'LIMIT', 0, 100)) do
  if id ~= instance then
    forget(id)
  end
end

local record = redis.call('HGET', records, instance)
local known = tonumber(string.match(record or '', '^(%d+):'))
if known and sequence <= known then
  return {-1, 0}
end
forget(instance)

local all = tonumber(redis.call('HGET', records, 'firsts') or '0') + firsts
local leased = tonumber(redis.call('HGET', records, 'leased') or '0')
local limit = math.max(minimum, math.floor(all * ratio / 1000000 + 1e-9))
local lease = math.max(held, math.min(want, limit - leased))

redis.call('HSET', records, instance, string.format('%.0f:%.0f:%.0f', sequence, firsts, lease))
redis.call('HINCRBY', records, 'firsts', firsts)
redis.call('HINCRBY', records, 'leased', lease)
redis.call('ZADD', ends, now + lifetime, instance)
redis.call('PEXPIRE', records, 2 * lifetime)
redis.call('PEXPIRE', ends, 2 * lifetime)
return {lease, limit}
