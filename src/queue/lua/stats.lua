-- What autoscaling observes of a pool. Looks only at personas that had work since the last look.

-- How long the oldest task of a queue waits: the first of each priority is the oldest of it.
local function oldest_wait(queue, now)
  local oldest, from = 0, '-inf'
  while true do
    local head = call('ZRANGE', queue, from, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    if not head[1] then return oldest end
    local score = tonumber(head[2])
    local band = math.floor(score / BAND)
    oldest = math.max(oldest, now - EPOCH - math.floor((score - band * BAND) / 16))
    from = (band + 1) * BAND
  end
end

local function add_persona(ns, id, s, now)
  local p = load_persona(ns, id)
  local queued, running = call('ZCARD', ns .. 'q:' .. id), call('SCARD', ns .. 'run:' .. id)
  if not p or p.pool ~= s.pool then return false end
  if p.arrived > 0 or p.completed > 0 then
    fold(ns, p)
    save_persona(ns, id, p)
  end
  s.queued, s.running = s.queued + queued, s.running + running
  local provider = s.providers[p.provider] or { demand = 0, running = 0, concurrency = 0 }
  s.providers[p.provider] = provider
  provider.running, provider.concurrency = provider.running + running, provider.concurrency + p.concurrency
  if queued + running > 0 and p.suspended == 0 and p.not_before <= now then
    local demand = math.min(queued + running, p.concurrency)
    s.demand, s.concurrency = s.demand + demand, s.concurrency + p.concurrency
    s.lanes[p.lane] = (s.lanes[p.lane] or 0) + demand
    provider.demand = provider.demand + demand
    if queued > 0 and running < p.concurrency then
      s.runnable = s.runnable + math.min(queued, p.concurrency - running)
      s.oldest = math.max(s.oldest, oldest_wait(ns .. 'q:' .. id, now))
    end
  end
  return queued + running > 0
end

local function workers_of(ns, pool)
  local list, entries = {}, call('ZRANGE', ns .. 'workers:' .. pool, 0, -1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    local uid = entries[i]
    local h = call('HMGET', ns .. 'w:' .. uid, 'slots', 'reported', 'draining', 'drain_at', 'active_at', 'memory',
      'lanes', 'address', 'loaded', 'load_failures', 'recycle')
    local leased, beat = call('ZCARD', ns .. 'lease:' .. uid), tonumber(entries[i + 1])
    local drained = h[3] == '1' and beat > tonumber(h[4] or 0) and h[2] == '0' and leased == 0
    list[#list + 1] = { uid, h[1] or '0', leased, h[2] or '0', h[3] or '0', drained and 1 or 0, beat, h[5] or '0',
      h[6] or '0', h[7] or '', h[8] or '', h[9] or '', h[10] or '', h[11] or '' }
  end
  return list
end

-- Providers of the pool's active personas, with how often each has said that it was too much.
local function providers_of(ns, providers)
  local list = {}
  for key, p in pairs(providers) do
    list[#list + 1] = { key, p.demand, p.running, p.concurrency, call('HGET', ns .. 'limited', key) or '0' }
  end
  return list
end

-- args: pool
local function stats(ns, a)
  local pool, now = a[1], clock_ms()
  local s = { pool = pool, demand = 0, concurrency = 0, queued = 0, running = 0, runnable = 0, oldest = 0, lanes = {},
    providers = {} }
  for _, id in ipairs(call('SMEMBERS', ns .. 'active:' .. pool)) do
    if not add_persona(ns, id, s, now) then call('SREM', ns .. 'active:' .. pool, id) end
  end
  local lanes = {}
  for lane, demand in pairs(s.lanes) do
    lanes[#lanes + 1] = lane
    lanes[#lanes + 1] = demand
  end
  local h = call('HMGET', ns .. 'pool:' .. pool, 'state', 'arrived', 'completed', 'wait_sum', 'service_sum', 'duties')
  return { h[1] == 'open' and 1 or 0, call('GET', ns .. 'epoch') or '', now, s.demand, lanes,
    call('SCARD', ns .. 'members:' .. pool), s.concurrency, s.queued, s.runnable, s.running, s.oldest,
    h[2] or '0', h[3] or '0', h[4] or '0', h[5] or '0', workers_of(ns, pool), h[6] or '',
    call('ZCARD', ns .. 'quarantine'), providers_of(ns, s.providers) }
end

register('stats', stats, { 'allow-oom' })
