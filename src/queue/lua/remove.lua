-- Takes a deleted persona out. Its waiting tasks end as failed, at most `limit` a call: the caller
-- repeats until none is left. Running tasks finish.
-- args: persona uid reason limit
local function remove(ns, a)
  local id, uid, limit = a[1], a[2], tonumber(a[4])
  local key = ns .. 'p:' .. id
  local h = call('HMGET', key, 'uid', 'route', 'live', 'gone')
  if not h[1] and not h[4] then return { 'unknown' } end
  if (h[1] or h[4]) ~= uid then return { 'other_uid', h[1] or h[4] } end
  if h[1] then
    local p = unpack_persona(h[2], h[3])
    if p.pool ~= '' then
      fold(ns, p)
      call('ZREM', ns .. 'ready:' .. p.pool .. ':' .. p.lane, id)
      call('ZREM', ns .. 'later:' .. p.pool, id)
      call('SREM', ns .. 'members:' .. p.pool, id)
      call('SREM', ns .. 'active:' .. p.pool, id)
    end
    call('SREM', ns .. 'personas', id)
    call('ZREM', ns .. 'quarantine', id)
    call('DEL', key)
    call('HSET', key, 'gone', uid)
    call('PEXPIRE', key, TOMBSTONE)
  end
  local tasks = call('ZRANGE', ns .. 'q:' .. id, 0, limit - 1)
  if #tasks > 0 then
    call('ZREM', ns .. 'q:' .. id, unpack(tasks))
    call('ZREM', ns .. 'due', unpack(tasks))
  end
  for _, task in ipairs(tasks) do
    local t = load_task(ns, task)
    if t and t.state == 'queued' then end_without(ns, t, 'failed', 'persona_deleted', a[3], 404) end
  end
  return { 'removed', #tasks, call('ZCARD', ns .. 'q:' .. id), call('SCARD', ns .. 'personas') }
end

register('remove', remove, { 'allow-oom' })
