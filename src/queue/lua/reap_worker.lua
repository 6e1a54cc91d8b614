-- Gives back all that a worker holds: its container has ended, or (forget) the pod is gone.
-- args: worker forget(1|0)
local function reap_worker(ns, a)
  local now, uid, report = clock_ms(), a[1], {}
  lose(ns, uid, call('ZRANGE', ns .. 'lease:' .. uid, 0, -1), now, report)
  if a[2] == '1' then
    local pool = call('HGET', ns .. 'w:' .. uid, 'pool')
    if pool then call('ZREM', ns .. 'workers:' .. pool, uid) end
    call('ZREM', ns .. 'workers', uid)
    call('DEL', ns .. 'w:' .. uid, ns .. 'lease:' .. uid)
  end
  return report
end

register('reap_worker', reap_worker, { 'allow-oom' })
