-- Says what the workers of an open pool have to know beside their settings: they hear it with the answer
-- to their next heartbeat, which they are asked for at once, so that a change replaces no pod.
-- args: pool duties(JSON)
local function assign(ns, a)
  local pool = ns .. 'pool:' .. a[1]
  if call('HGET', pool, 'state') ~= 'open' then return 0 end
  call('HSET', pool, 'duties', a[2])
  for _, uid in ipairs(call('ZRANGE', ns .. 'workers:' .. a[1], clock_ms() - LIVE, '+inf', 'BYSCORE')) do
    call('PUBLISH', ns .. 'ctl:' .. uid, '')
  end
  return 1
end

register('assign', assign)
