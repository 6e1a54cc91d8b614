-- Ends what has expired, gives back what workers have lost, wakes who waited for a provider. Answers that,
-- and how many tasks have ended without a worker's word since the last call, by outcome.

local STALE = 600000      -- ms without a heartbeat after which a worker leaves the pool's books
local FORGOTTEN = 3600000 -- and after which nothing of it stays

local function expire_queued(ns, now, limit, report)
  for _, task in ipairs(call('ZRANGE', ns .. 'due', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)) do
    call('ZREM', ns .. 'due', task)
    local t = load_task(ns, task)
    if t and t.state == 'queued' then
      call('ZREM', ns .. 'q:' .. t.persona, task)
      expire(ns, t)
      report[#report + 1] = { task, t.persona, 'expired' }
      local p = load_persona(ns, t.persona)
      if p then reindex(ns, t.persona, p, now, 0) end
    end
  end
end

local function sweep_worker(ns, uid, seen, now)
  if now - seen < STALE then return end
  local pool = call('HGET', ns .. 'w:' .. uid, 'pool')
  if pool then call('ZREM', ns .. 'workers:' .. pool, uid) end
  if now - seen >= FORGOTTEN and call('ZCARD', ns .. 'lease:' .. uid) == 0 then
    call('DEL', ns .. 'w:' .. uid)
    call('ZREM', ns .. 'workers', uid)
  end
end

-- args: limit seen_ms(of workers, what was not over then is left)
local function reap(ns, a)
  local now, limit, report = clock_ms(), tonumber(a[1]), {}
  local ended_by = math.min(now, tonumber(a[2] or now)) -- an earlier version says none
  expire_queued(ns, now, limit, report)
  local workers = call('ZRANGE', ns .. 'workers', 0, -1, 'WITHSCORES')
  for i = 1, #workers, 2 do
    if #report >= limit then break end
    local uid = workers[i]
    lose(ns, uid, call('ZRANGE', ns .. 'lease:' .. uid, '-inf', ended_by, 'BYSCORE', 'LIMIT', 0, limit), now, report)
    sweep_worker(ns, uid, tonumber(workers[i + 1]), ended_by)
  end
  for _, pool in ipairs(call('SMEMBERS', ns .. 'pools')) do
    local next = tonumber(call('HGET', ns .. 'pool:' .. pool, 'next') or 0)
    if next > 0 and next <= now then wake_later(ns, pool, now) end
  end
  local ended = call('HGETALL', ns .. 'ended')
  if #ended > 0 then call('DEL', ns .. 'ended') end
  return { report, ended }
end

register('reap', reap, { 'allow-oom' })
