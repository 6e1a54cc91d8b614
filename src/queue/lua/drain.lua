-- Stops or allows a worker's take and claim, by pod uid.
-- args: worker on(1|0)
local function drain(ns, a)
  local now, worker = clock_ms(), ns .. 'w:' .. a[1]
  local h = call('HMGET', worker, 'draining', 'pool', 'lanes')
  if (h[1] or '0') ~= a[2] then
    call('HSET', worker, 'draining', a[2], 'drain_at', now)
    call('ZADD', ns .. 'workers', 'NX', now, a[1])
    call('PUBLISH', ns .. 'ctl:' .. a[1], '')
    if a[2] == '0' and h[2] then ring_lanes(ns, h[2], split_lanes(h[3]), now) end
  end
  return call('ZCARD', ns .. 'lease:' .. a[1])
end

register('drain', drain, { 'allow-oom' })
