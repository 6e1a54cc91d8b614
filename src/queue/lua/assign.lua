-- Says what the workers of an open pool have to know beside their settings: they hear it with the answer
-- to their next heartbeat, so that a change replaces no pod.
-- args: pool duties(JSON)
local function assign(ns, a)
  local pool = ns .. 'pool:' .. a[1]
  if call('HGET', pool, 'state') ~= 'open' then return 0 end
  call('HSET', pool, 'duties', a[2])
  return 1
end

register('assign', assign)
