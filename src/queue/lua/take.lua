-- Hands runnable tasks to a worker: personas by priority, then by virtual time (start-time fair
-- queueing: a persona begins where the pool's clock is, or where its own charges have brought it).

-- The persona whose task this worker was held for goes before all others.
local function put_first(ns, pool, lanes, list, id)
  for _, c in ipairs(list) do
    if c.id == id then
      c.score = -1
      return
    end
  end
  for _, lane in ipairs(lanes) do
    local score = call('ZSCORE', ns .. 'ready:' .. pool .. ':' .. lane, id)
    if score then
      list[#list + 1] = { id = id, lane = lane, score = -1, band = math.floor(tonumber(score) / BAND) }
    end
  end
end

-- The first personas of the pool in these lanes, without `skip`.
local function candidates(ns, pool, lanes, w, skip)
  local list, full, n = {}, false, w.free + w.skipped + (w.loaded and LOOK_AHEAD or 0)
  for _, lane in ipairs(lanes) do
    local first = call('ZRANGE', ns .. 'ready:' .. pool .. ':' .. lane, 0, n - 1, 'WITHSCORES')
    full = full or #first == 2 * n
    for i = 1, #first, 2 do
      if not skip[first[i]] then
        local score = tonumber(first[i + 1])
        list[#list + 1] = { id = first[i], lane = lane, score = score, band = math.floor(score / BAND) }
      end
    end
  end
  if w.first and not skip[w.first] then put_first(ns, pool, lanes, list, w.first) end
  return list, full
end

-- The pool's clocks of virtual time, a priority each, and when to look at `later`.
local function pool_times(ns, pool, list)
  local fields, clocks = { 'next' }, {}
  for _, c in ipairs(list) do
    local field = 'vt:' .. (100 - c.band)
    if not clocks[field] then
      clocks[field] = 0
      fields[#fields + 1] = field
    end
  end
  local values = call('HMGET', ns .. 'pool:' .. pool, unpack(fields))
  for i = 2, #fields do clocks[fields[i]] = tonumber(values[i] or 0) end
  return clocks, tonumber(values[1] or 0)
end

-- The first in order, without those that are done or were looked at for this choice.
local function first_of(list, choice)
  local best
  for _, c in ipairs(list) do
    if not c.done and (not choice or c.choice ~= choice) and (not best or c.score < best.score) then best = c end
  end
  return best
end

-- Reads the candidate's persona; answers whether it is still what its place in the order says.
local function look_at(ns, c, pool)
  if c.p == nil then
    c.p = load_persona(ns, c.id) or false
    local p = c.p
    c.here = p and p.pool == pool and p.lane == c.lane and p.priority == 100 - c.band
  end
  return c.here
end

local NOBODY = {}

-- Who may have taken a worker along is left to the workers of its own pool: helped by others, it would
-- take down pool after pool.
local function is_left_alone(c, w)
  return c.p.lost > 0 and c.p.pool ~= w.pool
end

-- The candidate to serve, and those before it that this puts off. It is the first in order, or a later one
-- of its priority whose persona needs what this worker has loaded. Nobody is put off more than PASSES times
-- in a row. The later one may be ahead of its share by what PASSES of its tasks cost: beyond that, what
-- is loaded would decide who gets how much, and not the weights.
local function choose(ns, pool, list, clocks, w)
  local first = first_of(list)
  if not w.loaded or not first or first.score < 0 then return first, NOBODY end
  w.choice = w.choice + 1
  local c, ahead, start = first, {}, nil
  for _ = 1, LOOK_AHEAD do
    if not c or c.band ~= first.band then break end
    c.choice = w.choice
    if look_at(ns, c, pool) and not is_left_alone(c, w) and not (c.tasks and c.running >= c.p.concurrency) then
      local p = c.p
      start = start or math.max(p.vt, clocks['vt:' .. p.priority])
      local loaded = p.needs == '' or w.loaded[p.needs]
      if loaded and p.vt - start <= PASSES * charge_ahead(p) then return c, ahead end
      if p.passed >= PASSES then break end
      ahead[#ahead + 1] = c
    end
    c = first_of(list, w.choice)
  end
  return first, NOBODY
end

local function put_off(list)
  for _, c in ipairs(list) do
    c.p.passed = c.p.passed + 1
    c.put_off = true
  end
end

-- The candidate's persona, if it may begin one more with this worker.
local function open_persona(ns, c, pool, w)
  if not c.tasks then
    look_at(ns, c, pool)
    c.running = call('SCARD', ns .. 'run:' .. c.id)
    c.tasks = {}
  end
  return c.here and c.p.suspended == 0 and c.running < c.p.concurrency and not is_left_alone(c, w)
end

-- A task that must run alone waits for an empty worker. So that a busy pool does not starve it, one
-- worker of the pool is held for it (takes nothing more until it is empty) unless another live one
-- is. Not a thief, which leaves such a task to the workers of its pool.
local function hold_for(ns, t, c, w, now)
  if c.p.pool ~= w.pool then return end
  local key = ns .. 't:' .. t.id
  local holder = call('HGET', key, 'hold')
  if holder and holder ~= w.uid then
    local h = call('HMGET', ns .. 'w:' .. holder, 'hold', 'draining', 'heartbeat_at')
    if h[1] == t.id and h[2] ~= '1' and now - tonumber(h[3] or 0) < LIVE then return end
  end
  call('HSET', key, 'hold', w.uid)
  call('HSET', ns .. 'w:' .. w.uid, 'hold', t.id)
  w.free = 0
end

-- The persona's next task, or nil when it has none for this worker.
local function next_task(ns, c, w, now)
  local queue = ns .. 'q:' .. c.id
  for _ = 1, 100 do
    local head = call('ZPOPMIN', queue)
    if not head[1] then return nil end
    local h = call('HMGET', ns .. 't:' .. head[1], 'state', 'meta', 'payload', 'attempts', 'solo')
    if h[1] == 'queued' then
      local t = { id = head[1], payload = h[3], attempts = tonumber(h[4] or 0),
        solo = h[5] == '1' or is_suspect(c.p) }
      unpack_meta(t, h[2])
      if t.deadline <= now then
        call('ZREM', ns .. 'due', t.id)
        expire(ns, t)
      elseif t.enqueued_at < c.p.since then
        call('ZREM', ns .. 'due', t.id)
        orphaned(ns, t)
      elseif t.solo and (w.held > 0 or c.p.pool ~= w.pool) then
        call('ZADD', queue, head[2], t.id)
        hold_for(ns, t, c, w, now)
        return nil
      else
        return t
      end
    else
      call('ZREM', ns .. 'due', head[1])
    end
  end
  return nil
end

-- Sets a priority's clock back to 0, and everybody's virtual time by as much.
local function rebase(ns, pool, field, clock, now)
  for _, id in ipairs(call('SMEMBERS', ns .. 'members:' .. pool)) do
    local p = load_persona(ns, id)
    if p and p.pool == pool and 'vt:' .. p.priority == field then
      p.vt = math.max(0, p.vt - clock)
      save_persona(ns, id, p)
      reindex(ns, id, p, now, 0)
    end
  end
  call('HSET', ns .. 'pool:' .. pool, field, 0)
end

local function write_back(ns, pool, list, moved, now)
  for _, c in ipairs(list) do
    if c.p ~= nil and not c.here then call('ZREM', ns .. 'ready:' .. pool .. ':' .. c.lane, c.id) end
    if c.p then
      local begun = c.tasks and #c.tasks > 0
      if begun then call('SADD', ns .. 'run:' .. c.id, unpack(c.tasks)) end
      if begun or c.put_off then save_persona(ns, c.id, c.p) end
      if c.tasks then reindex(ns, c.id, c.p, now, 0) end
    end
  end
  for field, clock in pairs(moved) do
    call('HSET', ns .. 'pool:' .. pool, field, clock)
    if clock > REBASE then rebase(ns, pool, field, clock, now) end
  end
end

-- Takes from one pool while `w.free` lasts. Answers in how many ms to look again (0 = no reason to).
local function take_from(ns, pool, lanes, w, now, taken)
  local skip, next = {}, 0
  for _ = 1, 8 do
    local list, full = candidates(ns, pool, lanes, w, skip)
    local clocks
    clocks, next = pool_times(ns, pool, list)
    if next > 0 and next <= now then
      wake_later(ns, pool, now)
      list, full = candidates(ns, pool, lanes, w, skip)
      clocks, next = pool_times(ns, pool, list)
    end
    local moved = {}
    while w.free > 0 do
      local c, ahead = choose(ns, pool, list, clocks, w)
      if not c then break end
      local t = open_persona(ns, c, pool, w) and next_task(ns, c, w, now)
      if t then
        local field = 'vt:' .. c.p.priority
        local before, clock = clocks[field], nil
        taken[#taken + 1], clock = begin(ns, t, c, w, before, now)
        -- Who was put off keeps its claim: the clock does not go past it.
        if ahead[1] then clock = math.max(before, ahead[1].p.vt) end
        clocks[field], moved[field] = clock, clock
        c.score = (100 - c.p.priority) * BAND + c.p.vt
        w.free = w.solo and 0 or w.free - 1
      else
        c.done = true
        skip[c.id] = true
        w.skipped = w.skipped + 1
      end
      if t or w.free == 0 then put_off(ahead) end
    end
    write_back(ns, pool, list, moved, now)
    if w.free == 0 or not full then break end
  end
  return next > 0 and next - now or 0
end

-- The order of the head of the queue that has waited longest in a pool; none where nobody is runnable. It
-- looks at whose turn is next and at who has had most, in each lane: to know it of all would cost every
-- verb more. Who is left alone does not count.
local function longest_wait(ns, pool, lanes)
  local oldest
  for _, lane in ipairs(lanes) do
    local ready, seen = ns .. 'ready:' .. pool .. ':' .. lane, nil
    for _, place in ipairs { 0, -1 } do
      local id = call('ZRANGE', ready, place, place)[1]
      if not id or id == seen then break end
      seen, oldest = id, oldest or math.huge
      local p, head = load_persona(ns, id), call('ZRANGE', ns .. 'q:' .. id, 0, 0, 'WITHSCORES')
      if p and p.lost == 0 and head[2] then oldest = math.min(oldest, tonumber(head[2]) % BAND) end
    end
  end
  return oldest
end

-- Pools to help, the one that has waited longest first, without those where nothing is to be done.
local function by_wait(ns, pools, lanes, now)
  if #pools < 2 then return pools end
  local order, waits = {}, {}
  for _, pool in ipairs(pools) do
    local next = tonumber(call('HGET', ns .. 'pool:' .. pool, 'next') or 0)
    if next > 0 and next <= now then wake_later(ns, pool, now) end
    waits[pool] = longest_wait(ns, pool, lanes)
    if waits[pool] then order[#order + 1] = pool end
  end
  table.sort(order, function(a, b) return waits[a] < waits[b] end)
  return order
end

-- Whether the task that this worker is held for still waits for it.
local function held_for(ns, task, uid)
  if not task or task == '' then return nil end
  local h = call('HMGET', ns .. 't:' .. task, 'state', 'hold', 'meta')
  if h[1] ~= 'queued' or h[2] ~= uid then return nil end
  local t = {}
  unpack_meta(t, h[3])
  return t.persona
end

-- A list that begins with its length, and where the next argument is.
local function list_at(a, at)
  local list, last = {}, at + tonumber(a[at])
  for i = at + 1, last do list[#list + 1] = a[i] end
  return list, last + 1
end

-- args: pool worker instance call slots_free lease_ms, number of lanes, lanes, number of loaded
--       items, loaded items, pools to steal from
local function take(ns, a)
  local pool, uid, instance, now = a[1], a[2], a[3], clock_ms()
  local worker = ns .. 'w:' .. uid
  local h = call('HMGET', worker, 'instance', 'draining', 'slots', 'solo', 'hold')
  if not h[1] then
    call('HSET', worker, 'instance', instance, 'pool', pool)
    call('ZADD', ns .. 'workers', now, uid)
  elseif h[1] ~= instance then
    return { 'superseded' }
  end
  local lanes, at = list_at(a, 7)
  local items, rest = list_at(a, at)
  local loaded = #items > 0 and {} or nil
  for _, item in ipairs(items) do loaded[item] = true end
  local steal = {}
  for i = rest, #a do steal[#steal + 1] = a[i] end
  if h[2] == '1' then
    ring_lanes(ns, pool, lanes, now) -- the token that woke it was meant for another one
    return { 'draining' }
  end
  if memory_above(TAKE_MARK, now, 0) then return { 'out_of_memory' } end

  local slots_free = tonumber(a[5])
  local slots = tonumber(h[3] or slots_free)
  local leased = call('ZCARD', ns .. 'lease:' .. uid)
  local first = held_for(ns, h[5], uid)
  if leased > 0 and (h[4] == '1' or first) then return { 'ok', 0, {} } end
  -- What it runs is what it has leased, or more with direct calls that bypassed the queue.
  local w = { uid = uid, instance = instance, pool = pool, call = a[4], lease = tonumber(a[6]), slots = slots,
    held = math.max(leased, slots - slots_free), free = math.min(slots_free, slots - leased), count = 0,
    skipped = 0, choice = 0, loaded = loaded, first = first, leases = {}, tasks = {}, solo = false, was_solo = h[4] == '1' }
  if h[5] and h[5] ~= '' and not (leased > 0) then call('HSET', worker, 'hold', '') end
  local taken, look_again = {}, 0
  if w.free > 0 then look_again = take_from(ns, pool, lanes, w, now, taken) end
  for _, other in ipairs(w.free > 1 and by_wait(ns, steal, lanes, now) or {}) do
    if w.free > 1 then
      w.free, w.skipped = w.free - 1, 0
      take_from(ns, other, lanes, w, now, taken)
      w.free = w.free + 1
    end
  end
  hand_over(ns, w, now)
  return { 'ok', look_again, taken }
end

register('take', take)
