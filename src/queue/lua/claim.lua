-- Gives one waiting task to a worker that is then called directly; same checks as `take`.

local function serves(lanes, wanted)
  for _, lane in ipairs(split_lanes(lanes)) do
    if lane == wanted then return true end
  end
  return false
end

-- args: task worker call lease_ms
local function claim(ns, a)
  local task, uid, now = a[1], a[2], clock_ms()
  local t = load_task(ns, task)
  if not t or t.state ~= 'queued' or t.deadline <= now then return { 'not_queued' } end
  local p = load_persona(ns, t.persona)
  if not p or p.pool == '' or t.enqueued_at < p.since then return { 'not_next' } end
  if memory_above(TAKE_MARK, now, 0) then return { 'out_of_memory' } end
  t.solo = t.solo or is_suspect(p)
  local running = call('SCARD', ns .. 'run:' .. t.persona)
  if p.suspended == 1 or p.not_before > now or running >= p.concurrency
    or call('ZRANGE', ns .. 'q:' .. t.persona, 0, 0)[1] ~= task then
    return { 'not_next' }
  end

  local h = call('HMGET', ns .. 'w:' .. uid, 'instance', 'draining', 'slots', 'solo', 'hold', 'lanes')
  local seen = call('ZSCORE', ns .. 'workers:' .. p.pool, uid)
  local leased = call('ZCARD', ns .. 'lease:' .. uid)
  local slots = tonumber(h[3] or 0)
  if not h[1] or h[2] == '1' or not seen or now - tonumber(seen) >= LIVE or not serves(h[6], p.lane)
    or leased >= slots or (leased > 0 and (h[4] == '1' or t.solo or (h[5] or '') ~= '')) then
    return { 'no_slot' }
  end

  t.payload = call('HGET', ns .. 't:' .. task, 'payload')
  local field = 'vt:' .. p.priority
  local clock = tonumber(call('HGET', ns .. 'pool:' .. p.pool, field) or 0)
  local c = { id = t.persona, p = p, running = running, tasks = {} }
  local w = { uid = uid, instance = h[1], pool = p.pool, call = a[3], lease = tonumber(a[4]), slots = slots,
    held = leased, count = 0, leases = {}, tasks = {}, solo = false, was_solo = h[4] == '1' }
  call('ZREM', ns .. 'q:' .. t.persona, task)
  local taken
  taken, clock = begin(ns, t, c, w, clock, now)
  call('SADD', ns .. 'run:' .. t.persona, task)
  call('HSET', ns .. 'pool:' .. p.pool, field, clock)
  save_persona(ns, t.persona, p)
  hand_over(ns, w, now)
  reindex(ns, t.persona, p, now, 0)
  return { 'claimed', taken }
end

register('claim', claim)
