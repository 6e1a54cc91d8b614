-- Opens a pool for routes.
-- args: pool closings(as read before; refused if a pool was closed since; none = opened in any case)
local function open(ns, a)
  if a[2] and a[2] ~= (call('GET', ns .. 'closings') or '0') then return 'CLOSED' end
  call('HSET', ns .. 'pool:' .. a[1], 'state', 'open')
  call('SADD', ns .. 'pools', a[1])
  return 'OK'
end

register('open', open)
