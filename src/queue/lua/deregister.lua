-- A worker that goes is no capacity any more. Its leases and its draining stay until it is forgotten.
-- args: pool worker
local function deregister(ns, a)
  call('ZREM', ns .. 'workers:' .. a[1], a[2])
  return 'OK'
end

register('deregister', deregister, { 'allow-oom' })
