-- Adds chunks to a task's output and passes them on.
-- args: task fence chunks(JSON array), number of this emission of the attempt from 1 (absent = not known)
local function emit(ns, a)
  local t = fenced(ns, a[1], a[2])
  if not t then return 0 end
  -- The answer to the first try was lost on its way.
  if a[4] and call('XLEN', ns .. 'out:' .. a[1]) >= tonumber(a[4]) then return 1 end
  local bytes = (t.emitted and tonumber(t.emitted) or 0) + #a[3]
  if bytes > MOST_OUTPUT then return 0 end
  local entry = call('XADD', ns .. 'out:' .. a[1], '*', 'c', a[3])
  call('HSET', ns .. 't:' .. a[1], 'emitted', bytes)
  tell(ns, t, 'c', entry, a[3])
  return 1
end

register('emit', emit, { 'allow-oom' })
