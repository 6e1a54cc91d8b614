-- Gives back all that a worker holds: its container has ended, or (forget) the pod is gone.
-- What a worker held when the clock showed that time: it may have begun anew since, and then what it has
-- taken after that runs.
local function held_at(ns, uid, time)
  local held = {}
  for _, task in ipairs(call('ZRANGE', ns .. 'lease:' .. uid, 0, -1)) do
    local t = load_task(ns, task)
    if not (t and t.state == 'running' and t.worker == uid and t.taken_at > time) then held[#held + 1] = task end
  end
  return held
end

-- args: worker forget(1|0) lost_ms(what it has taken later is left)
local function reap_worker(ns, a)
  local now, uid, report = clock_ms(), a[1], {}
  local lost_at = tonumber(a[3] or now) -- an earlier version says none
  lose(ns, uid, held_at(ns, uid, lost_at), now, report)
  if a[2] == '1' then
    local pool = call('HGET', ns .. 'w:' .. uid, 'pool')
    if pool then call('ZREM', ns .. 'workers:' .. pool, uid) end
    call('ZREM', ns .. 'workers', uid)
    call('DEL', ns .. 'w:' .. uid, ns .. 'lease:' .. uid)
  end
  return report
end

register('reap_worker', reap_worker, { 'allow-oom' })
