-- A worker's sign of life: renews its registration and the leases of what it runs.
-- args: worker instance pool slots running memory lanes address loaded load_failures recycle lease_ms,
--       then task and fence of each
local function renew(ns, a)
  local now, worker = clock_ms(), a[1]
  local h = call('HMGET', ns .. 'w:' .. worker, 'instance', 'draining')
  if h[1] and h[1] ~= a[2] then return { 'superseded' } end
  note_worker(ns, a, now)
  local lost, fences, deadline = {}, {}, now + tonumber(a[12])
  for i = 13, #a, 2 do
    if fenced(ns, a[i], a[i + 1]) then
      call('ZADD', ns .. 'lease:' .. worker, deadline, a[i])
    else
      lost[#lost + 1] = a[i]
      fences[#fences + 1] = a[i + 1]
    end
  end
  local duties = call('HGET', ns .. 'pool:' .. a[3], 'duties') or ''
  -- A worker may hold a lost attempt of a task and the valid one: the fences tell them apart. The ids are
  -- for workers of before, which know nothing else.
  return { 'ok', h[2] == '1' and 1 or 0, lost, duties, fences }
end

register('renew', renew, { 'allow-oom' })
