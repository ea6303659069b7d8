-- Leases tokens of one token bucket to one instance, and takes back those of instances that have not renewed in time, in
-- one round trip, on the server's own clock. See token_bucket.lua for the bucket, and _machine.py for the protocol.
--
-- KEYS[1]  the bucket
-- KEYS[2]  the leases: a hash of "N:T:G" for each instance. N is the number of the call that made the lease, T the tokens
--          of the lease, and G the part of them that this call has granted
-- KEYS[3]  their ends: a sorted set of the instances, by the microsecond in which the lease returns to the bucket
-- ARGV     token, refill, capacity   as in token_bucket.lua
--          instance  the holder of the lease
--          held      the number of the last call that was answered; 0 for none
--          number    the number of this call, larger than all before it
--          count     tokens of the lease as that answer has left them
--          kept      unspent tokens that the instance keeps
--          back      unspent tokens that it gives back
--          wanted    tokens that it asks for
--          lifetime  microseconds from now on until the lease returns
--
-- Returns the tokens granted, and the units that are missing from a full bucket after the call.

local token, refill, capacity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local instance, held, number = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local count, kept, back = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local wanted, lifetime = tonumber(ARGV[10]), tonumber(ARGV[11])
local most_at_once = 100
local shortest_kept, longest_kept = 60000, 86400000 -- milliseconds

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local state = redis.pcall('GET', KEYS[1])
if type(state) == 'table' and state.err and not string.find(state.err, 'WRONGTYPE', 1, true) then
  return state -- for example an ACL that forbids GET: an unreadable bucket is not a full bucket
end
local missing, waits = 0, ''
if type(state) == 'string' then
  local full, fraction, suffix = string.match(state, '^(%d+):(%d+)(:?%d*w?)$')
  if full then
    missing, waits = math.max(0, (full - now) * refill + fraction), suffix
  end
end
if waits == '' and missing > capacity then -- the server's clock went back, or the bucket has become smaller
  missing = capacity
end
local before = missing

-- Leases of other instances that have ended: the instance is dead, or Redis was out of its reach.
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, most_at_once)
for _, other in ipairs(ended) do
  if other ~= instance then
    local tokens = string.match(redis.call('HGET', KEYS[2], other) or '', '^%d+:(%d+):')
    missing = missing - (tonumber(tokens) or 0) * token
    redis.call('HDEL', KEYS[2], other)
    redis.call('ZREM', KEYS[3], other)
  end
end
missing = math.max(0, missing)

local last, _, unknown = string.match(redis.call('HGET', KEYS[2], instance) or '', '^(%d+):(%d+):(%d+)$')
last = tonumber(last)
if last and last >= number then -- a call that was held up: a later one is decided already
  wanted, kept = 0, 0
elseif not last then -- the lease has ended, and all of it is in the bucket again: what was spent is paid once more
  missing = math.min(math.max(0, missing + (count - back) * token), math.max(missing, capacity))
elseif last == held then
  missing = math.max(0, missing - back * token)
else -- the instance did not get the last answer, so it has spent nothing of that grant
  missing = math.max(0, missing - (unknown + back) * token)
end

local granted = 0
if wanted > 0 then
  granted = math.max(0, math.min(wanted, math.floor((capacity - missing) / token)))
  missing = missing + granted * token
end

local rest = math.fmod(missing, refill)
local micros = (missing - rest) / refill
local expiry = math.ceil(micros / 1000) + 1
if missing ~= before then
  if missing > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f:%.0f', now + micros, rest) .. waits, 'PX', expiry)
  else
    redis.call('DEL', KEYS[1])
  end
end

if not last or last < number then
  if kept + granted > 0 then
    redis.call('HSET', KEYS[2], instance, string.format('%.0f:%.0f:%.0f', number, kept + granted, granted))
    redis.call('ZADD', KEYS[3], now + lifetime, instance)
    -- After its end a lease waits for the next call about one, while other calls may empty the bucket. When the bucket has
    -- had the time to fill up from empty, there is not much left to take back.
    local filling = math.min(longest_kept, math.ceil(capacity / refill / 1000))
    local kept_for = math.ceil(lifetime / 1000) + math.max(shortest_kept, filling)
    redis.call('PEXPIRE', KEYS[2], kept_for)
    redis.call('PEXPIRE', KEYS[3], kept_for)
  elseif last then
    redis.call('HDEL', KEYS[2], instance)
    redis.call('ZREM', KEYS[3], instance)
  end
end
return {granted, missing}
