-- Reads and changes the record of one shared breaker. All of its state is here; every instance keeps a copy.
--
-- KEYS[1]  a hash: the record; `epoch` grows by one with each change of `state`, `version` with each override
-- KEYS[2]  a sorted set: the instances that have tripped, by the millisecond at which their vote ends
-- KEYS[3]  a sorted set: the trial slots that are taken (fencing tokens), by the millisecond at which their lease ends
-- KEYS[4]  a list: the last changes by operators, newest first
-- KEYS[5]  a sorted set: the instances that have this breaker, by the millisecond after which they count as dead
-- ARGV[1]  JSON; see `Ask` in _machine.py. Times are milliseconds, and never absolute: only the server has a clock.
--
-- Returns the record as JSON, then the tokens of the slots that the caller gets.

local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local names = {'epoch', 'state', 'until', 'ends', 'ok', 'failed', 'fence', 'reason', 'openings',
               'version', 'word', 'word_until', 'why', 'author', 'at', 'vain'}
local texts = {state = 'closed', reason = '', word = '', why = '', author = ''}
local words = {
  state = {closed = true, open = true, ['half-open'] = true},
  word = {[''] = true, forced_open = true, disabled = true, metrics_only = true, automatic = true}
}
local values = redis.call('HMGET', KEYS[1], unpack(names))
local is_new = not values[1]

-- What another program has written into the record counts as nothing: else no instance could use the record again.
local record = {}
for i, name in ipairs(names) do
  local value, known = values[i], words[name]
  if texts[name] then
    record[name] = value and #value <= 2000 and (not known or known[value]) and value or texts[name]
  else
    local number = tonumber(value or 0)
    record[name] = number and number >= 0 and number < 1e14 and math.floor(number) or 0
  end
end

local is_news, is_changed = false, false

local function become(state, left, reason)
  record.epoch = record.epoch + 1
  record.state, record.reason, record['until'], record.ends = state, reason, now + left, now + ask.limit
  record.ok, record.failed, record.at = 0, 0, now
  redis.call('DEL', KEYS[2], KEYS[3])
  is_news = true
end

-- The server's clock went back, as it may at a failover: the times in the record move along.
if now < record.at then
  for _, name in ipairs({'until', 'ends', 'word_until', 'vain'}) do
    record[name] = record[name] - (record.at - now)
  end
  record.at, is_changed = now, true
end

-- Redis has lost its data, or has an older copy: the newest knowledge of an instance replaces it.
if ask.epoch > record.epoch then
  record.epoch = ask.epoch - 1
  become(ask.state, ask.left, ask.reason)
end
if ask.version > record.version then
  record.version, record.word, record.word_until = ask.version, ask.word, now + ask.word_left
  record.why, record.author, record.at = ask.why, ask.author, now
  is_news = true
end

-- An operator overrides the rules of all instances.
if ask.set then
  record.version = math.max(record.version + 1, now)  -- also above those from before a loss of data
  record.word, record.word_until = ask.set.word, now + ask.set.left
  record.why, record.author, record.at = ask.set.why, ask.set.author, now
  is_news = true
  redis.call('LPUSH', KEYS[4], cjson.encode({
    at = now, word = ask.set.word, left = ask.set.left, why = ask.set.why, author = ask.set.author
  }))
  redis.call('LTRIM', KEYS[4], 0, ask.set.kept - 1)
  redis.call('PEXPIRE', KEYS[4], ask.set.kept_for)
end

-- Leases last for `ask.lease` at most: one that ends later is from before the server's clock went back.
local function drop_dead(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', key, '(' .. (now + ask.lease), '+inf')
end

if record.state == 'half-open' then
  -- Results count only with the token of a slot that the caller still has.
  drop_dead(KEYS[3])
  for name, tokens in pairs({ok = ask.ok, failed = ask.failed}) do
    for _, token in ipairs(tokens) do
      if redis.call('ZREM', KEYS[3], token) == 1 then
        record[name] = record[name] + 1
        is_changed = true
      end
    end
  end
  for _, token in ipairs(ask.drop) do
    redis.call('ZREM', KEYS[3], token)
  end
  for _, token in ipairs(ask.keep) do
    redis.call('ZADD', KEYS[3], 'XX', now + ask.lease, token)
  end
  redis.call('PEXPIRE', KEYS[3], 2 * ask.lease)

  if record.failed >= ask.allowed then
    become('open', ask.reopen, 'a trial call failed')
    record.openings = math.max(record.openings, ask.openings)
  elseif record.ok >= ask.required then
    become('closed', 0, 'trial calls succeeded')
  elseif now >= record.ends and ask.reopen > 0 then
    become('open', ask.reopen, 'half-open time limit')
  end
elseif record.state == 'open' and ask.want > 0 and now >= record['until'] then
  become('half-open', 0, 'reset timeout elapsed')
end
if ask.close and ask.epoch == record.epoch and record.state ~= 'closed' then
  become('closed', 0, 'an instance has closed')
end

-- The instances that have this breaker: a quorum is a share of them.
if ask.leave then
  redis.call('ZREM', KEYS[5], ask.me)
elseif ask.me ~= '' then
  redis.call('ZADD', KEYS[5], now + ask.lease, ask.me)
  redis.call('PEXPIRE', KEYS[5], 2 * ask.lease)
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
end
local instances = redis.call('ZCOUNT', KEYS[5], '(' .. now, now + ask.lease)

-- Votes: only of instances that know the present epoch. An instance with two breakers of this name has one vote, so
-- only the breaker that has voted takes it back.
local votes = 0
if ask.vote > 0 and ask.epoch == record.epoch and record.state == 'closed' then
  drop_dead(KEYS[2])
  redis.call('ZADD', KEYS[2], now + ask.lease, ask.me)
  redis.call('PEXPIRE', KEYS[2], 2 * ask.lease)
  votes = redis.call('ZCARD', KEYS[2])
  if votes >= ask.needed then
    become('open', ask.vote, votes .. (votes == 1 and ' instance has' or ' instances have') .. ' tripped: ' .. ask.rule)
    record.openings = ask.openings
  end
else
  if ask.unvote then
    redis.call('ZREM', KEYS[2], ask.me)
  end
  votes = redis.call('ZCOUNT', KEYS[2], '(' .. now, now + ask.lease)
end

-- Trial slots, until enough trials have succeeded. If all were used without a decision, as many as are missing.
local tokens = {}
if record.state == 'half-open' and ask.want > 0 then
  local taken = redis.call('ZCARD', KEYS[3])
  local free = ask.permits - record.ok - record.failed - taken
  if free <= 0 and taken == 0 then
    free = math.max(1, ask.required - record.ok)
  end
  for _ = 1, math.min(ask.want, free) do
    record.fence = math.max(record.fence + 1, now)  -- never twice, also after a loss of data
    local token = record.fence .. ':' .. ask.me
    redis.call('ZADD', KEYS[3], now + ask.lease, token)
    tokens[#tokens + 1] = token
    is_changed = true
  end
  if #tokens == 0 and now > record.vain + 500 then
    record.vain, is_changed = now, true  -- those who have unused slots learn it
  end
  redis.call('PEXPIRE', KEYS[3], 2 * ask.lease)
end

local word_left = math.max(0, record.word_until - now)
local ttl = ask.ttl + word_left
if is_news or is_changed or (is_new and ask.me ~= '') then
  for _, name in ipairs(names) do
    redis.call('HSET', KEYS[1], name, record[name])
  end
  redis.call('PEXPIRE', KEYS[1], ttl)
elseif redis.call('PTTL', KEYS[1]) < ttl / 2 then
  redis.call('PEXPIRE', KEYS[1], ttl)
end

local text = cjson.encode({
  epoch = record.epoch, state = record.state, left = math.max(0, record['until'] - now), reason = record.reason,
  ok = record.ok, failed = record.failed, openings = record.openings, votes = votes,
  trials = record.state == 'half-open' and redis.call('ZCARD', KEYS[3]) or 0, version = record.version,
  word = word_left > 0 and record.word or '', word_left = word_left, why = record.why, author = record.author,
  instances = instances, is_new = is_new, is_wanted = now < record.vain + 3000
})
if is_news and ask.channel then
  redis.pcall('PUBLISH', ask.channel, text)  -- an ACL may forbid the channel: then the rounds bring the news
end
return {text, unpack(tokens)}
