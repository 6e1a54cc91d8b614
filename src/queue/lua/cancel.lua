-- Ends a task that has not ended; tells the worker that runs it.
-- args: task
local function cancel(ns, a)
  local now = clock_ms()
  local t = load_task(ns, a[1])
  if not t then return 'unknown' end
  if t.state == 'ended' then return 'ended' end
  local p = load_persona(ns, t.persona)
  if t.state == 'running' then
    stop(ns, t, p, now)
    call('PUBLISH', ns .. 'ctl:' .. t.worker, t.id)
    if p then save_persona(ns, t.persona, p) end
  else
    call('ZREM', ns .. 'q:' .. t.persona, t.id)
    call('ZREM', ns .. 'due', t.id)
  end
  end_without(ns, t, 'cancelled', 'cancelled', 'the client cancelled the request', 499)
  if p then reindex(ns, t.persona, p, now, FREED) end
  return 'cancelled'
end

register('cancel', cancel, { 'allow-oom' })
