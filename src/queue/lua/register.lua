-- Registers a worker process at its start. What an earlier instance of the same pod held is given
-- back; that instance is refused from now on.
-- args: worker instance pool slots running memory lanes address loaded load_failures recycle
local function register_worker(ns, a)
  local now, worker = clock_ms(), a[1]
  local known = call('HGET', ns .. 'w:' .. worker, 'instance')
  local report = {}
  if known ~= a[2] then
    lose(ns, worker, call('ZRANGE', ns .. 'lease:' .. worker, 0, -1), now, report)
    call('HSET', ns .. 'w:' .. worker, 'hold', '', 'solo', 0)
  end
  note_worker(ns, a, now)
  call('HSET', ns .. 'w:' .. worker, 'active_at', now)
  local recycling = ns .. 'recycling:' .. a[3]
  if call('HGET', recycling, 'worker') == worker then call('DEL', recycling) end
  return { 'ok', #report }
end

register('register', register_worker, { 'allow-oom' })
