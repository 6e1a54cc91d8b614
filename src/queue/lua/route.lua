-- Registers a persona or changes its route, by compare-and-set on uid, epoch and generation.

local function leave(ns, id, p)
  call('ZREM', ns .. 'ready:' .. p.pool .. ':' .. p.lane, id)
  call('ZREM', ns .. 'later:' .. p.pool, id)
end

local function pool_clock(ns, pool, priority)
  return tonumber(call('HGET', ns .. 'pool:' .. pool, 'vt:' .. priority) or 0)
end

-- args: persona uid target(unchanged|nowhere|pool) pool lane epoch generation config concurrency
--       max_length priority weight suspended max_attempts provider needs
local function route(ns, a)
  local id, uid, target, pool, epoch, generation = a[1], a[2], a[3], a[4], tonumber(a[6]), tonumber(a[7])
  local key, now = ns .. 'p:' .. id, clock_ms()
  local h = call('HMGET', key, 'uid', 'epoch', 'route', 'live', 'gone')
  if h[5] == uid then return { 'removed' } end
  if h[5] and call('ZCARD', ns .. 'q:' .. id) > 0 then return { 'other_uid', h[5] } end
  if h[1] and h[1] ~= uid then return { 'other_uid', h[1] } end
  if h[2] and epoch < tonumber(h[2]) then return { 'stale_epoch', h[2] } end
  local layout = target == 'pool' and call('GET', ns .. 'layout')
  if layout and epoch < tonumber(layout) then return { 'stale_epoch', layout } end
  local old = h[3] and unpack_persona(h[3], h[4])
  if old and generation < old.generation then return { 'stale_generation', old.generation } end
  if target == 'unchanged' then pool = old and old.pool or '' end
  if target == 'nowhere' then pool = '' end
  if pool ~= '' and call('HGET', ns .. 'pool:' .. pool, 'state') ~= 'open' then return { 'closed_pool' } end

  local p = old and unpack_persona(h[3], h[4])
    or { since = now, vt = 0, seq = 0, not_before = 0, service = 0, arrived = 0, completed = 0, wait_sum = 0, service_sum = 0, lost = 0, passed = 0 }
  if old and generation > old.generation then acquit(ns, id, p) end
  p.pool, p.lane, p.generation, p.provider = pool, a[5], generation, a[15]
  p.concurrency, p.max_length, p.priority = tonumber(a[9]), tonumber(a[10]), tonumber(a[11])
  p.weight, p.suspended, p.max_attempts = tonumber(a[12]), tonumber(a[13]), tonumber(a[14])
  p.needs = a[16]

  if old and old.pool ~= '' then
    leave(ns, id, old)
    if old.pool ~= pool then
      fold(ns, old)
      p.arrived, p.completed, p.wait_sum, p.service_sum = 0, 0, 0, 0
      call('SREM', ns .. 'members:' .. old.pool, id)
      call('SREM', ns .. 'active:' .. old.pool, id)
    end
  end
  if pool ~= '' then
    if not old or old.pool ~= pool or old.priority ~= p.priority then
      local ahead = 0
      if old and old.pool ~= '' then ahead = math.max(0, old.vt - pool_clock(ns, old.pool, old.priority)) end
      p.vt = pool_clock(ns, pool, p.priority) + ahead
    end
    call('SADD', ns .. 'members:' .. pool, id)
    call('SADD', ns .. 'active:' .. pool, id)
  end
  call('SADD', ns .. 'personas', id)
  call('HSET', key, 'uid', uid, 'epoch', epoch, 'config', a[8], 'route', pack_route(p), 'live', pack_live(p))
  if h[5] then
    call('HDEL', key, 'gone')
    call('PERSIST', key)
  end
  reindex(ns, id, p, now, p.concurrency)
  return { 'routed', old and old.pool ~= pool and old.pool or '', pool, call('ZCARD', ns .. 'q:' .. id) }
end

register('route', route)
