-- What is runnable, who is woken, and the counters of a pool.

local rung, looked, pools_seen = {}, {}, 0

local function remember(book, key, now)
  if not book[key] then
    pools_seen = pools_seen + 1
    if pools_seen > 4096 then
      rung, looked, pools_seen = {}, {}, 0
      return
    end
  end
  book[key] = now
end

local function lately(book, key, now, span)
  local at = book[key]
  return at and now >= at and now - at < span
end

local function has_idle_slot(ns, pool, now)
  for _, uid in ipairs(call('ZRANGE', ns .. 'workers:' .. pool, now - LIVE, '+inf', 'BYSCORE')) do
    local w = call('HMGET', ns .. 'w:' .. uid, 'slots', 'draining')
    if w[1] and w[2] ~= '1' and call('ZCARD', ns .. 'lease:' .. uid) < tonumber(w[1]) then return true end
  end
  return false
end

-- Tells the controller, coalesced, when a pool wakes up or has nobody idle for what came.
local function doorbell(ns, pool, now, sure)
  local key = ns .. pool
  if lately(rung, key, now, RING_EVERY) then return end
  if not sure then
    if lately(looked, key, now, LOOK_EVERY) then return end
    remember(looked, key, now)
    if has_idle_slot(ns, pool, now) then return end
  end
  remember(rung, key, now)
  call('PUBLISH', ns .. 'doorbell', pool)
end

-- A token that nobody has taken means that nobody waits.
local function ring(ns, p, now, count, woke)
  local bell = ns .. 'bell:' .. p.pool .. ':' .. p.lane
  local waiting = call('LLEN', bell)
  for _ = 1, math.min(count, BELL - waiting) do call('RPUSH', bell, '1') end
  doorbell(ns, p.pool, now, woke or waiting > 0)
end

-- Recomputes from what is there whether a persona is runnable and where it stands. Every verb that
-- touched a persona calls it; `wake` = how many tasks may have become runnable by what the verb did.
-- FREED: one stopped running; who stopped it takes the next one itself unless the limit kept it out.
local FREED = 'freed'

local function reindex(ns, id, p, now, wake)
  if p.pool == '' then return end
  local ready = ns .. 'ready:' .. p.pool .. ':' .. p.lane
  local queued = call('ZCARD', ns .. 'q:' .. id)
  local running = call('SCARD', ns .. 'run:' .. id)
  if queued > 0 and running < p.concurrency and p.suspended == 0 and p.not_before <= now then
    call('ZADD', ready, (100 - p.priority) * BAND + p.vt, id)
    if wake == FREED then wake = running == p.concurrency - 1 and 1 or 0 end
    if wake > 0 then
      local room = math.min(wake, queued, p.concurrency - running)
      ring(ns, p, now, room, running == 0 and queued <= wake)
    end
    return
  end
  call('ZREM', ready, id)
  if p.not_before > now then
    local pool = ns .. 'pool:' .. p.pool
    call('ZADD', ns .. 'later:' .. p.pool, p.not_before, id)
    local next = tonumber(call('HGET', pool, 'next') or 0)
    if next == 0 or p.not_before < next then call('HSET', pool, 'next', p.not_before) end
  end
end

-- Personas of a pool whose provider may be asked again.
local function wake_later(ns, pool, now)
  local later = ns .. 'later:' .. pool
  for _, id in ipairs(call('ZRANGE', later, '-inf', now, 'BYSCORE')) do
    call('ZREM', later, id)
    local p = load_persona(ns, id)
    if p and p.pool == pool then
      p.not_before = 0
      save_persona(ns, id, p)
      reindex(ns, id, p, now, p.concurrency)
    end
  end
  local first = call('ZRANGE', later, 0, 0, 'WITHSCORES')
  call('HSET', ns .. 'pool:' .. pool, 'next', first[2] or 0)
end

-- Adds a persona's counters to its pool's, and begins them again.
local function fold(ns, p)
  local pool = ns .. 'pool:' .. p.pool
  if p.arrived > 0 then call('HINCRBY', pool, 'arrived', p.arrived) end
  if p.completed > 0 then
    call('HINCRBY', pool, 'completed', p.completed)
    call('HINCRBY', pool, 'wait_sum', p.wait_sum)
    call('HINCRBY', pool, 'service_sum', p.service_sum)
  end
  p.arrived, p.completed, p.wait_sum, p.service_sum = 0, 0, 0, 0
end
