-- Opens a pool for routes.
-- args: pool
local function open(ns, a)
  call('HSET', ns .. 'pool:' .. a[1], 'state', 'open')
  call('SADD', ns .. 'pools', a[1])
  return 'OK'
end

register('open', open)
