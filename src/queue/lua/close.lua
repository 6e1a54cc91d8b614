-- Closes a pool that has no members, nothing waiting and nothing running; otherwise changes nothing.
-- Until the pool is deleted it may be opened again by who does not know: so the epoch of the topology that
-- closed it stays, and nobody enters any pool by the word of an older one.
-- args: pool epoch(0 = no topology's)
local function close(ns, a)
  local pool = a[1]
  local members = call('SMEMBERS', ns .. 'members:' .. pool)
  local queued, running = 0, 0
  for _, id in ipairs(members) do queued = queued + call('ZCARD', ns .. 'q:' .. id) end
  -- All workers there are: one that has gone, or never registered, may still hold tasks.
  for _, uid in ipairs(call('ZRANGE', ns .. 'workers', 0, -1)) do
    local leased = call('ZCARD', ns .. 'lease:' .. uid)
    if leased > 0 and call('HGET', ns .. 'w:' .. uid, 'pool') == pool then running = running + leased end
  end
  if #members > 0 or running > 0 then return { 'busy', #members, queued, running } end
  call('DEL', ns .. 'pool:' .. pool, ns .. 'members:' .. pool, ns .. 'active:' .. pool, ns .. 'later:' .. pool)
  call('SREM', ns .. 'pools', pool)
  call('INCR', ns .. 'closings')
  local layout, epoch = ns .. 'layout', tonumber(a[2])
  if epoch > tonumber(call('GET', layout) or 0) then call('SET', layout, epoch) end
  return { 'closed' }
end

register('close', close, { 'allow-oom' })
