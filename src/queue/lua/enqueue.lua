-- Puts a task in its persona's queue. The duplicate check comes before every limit.

-- When there should be room: the time in which a tenth of the queue drains.
local function retry_after(ns, id, p, queued)
  local running = math.max(1, call('SCARD', ns .. 'run:' .. id))
  local service = p.service > 0 and p.service or SERVICE_PRIOR
  return math.min(60000, math.max(1000, math.ceil(math.max(1, queued / 10) * service / running)))
end

-- Whether a task ended in a way that another try may mend: the provider was busy, nobody had time.
local function may_mend(key)
  local good, outcome = pcall(cjson.decode, call('HGET', key, 'outcome') or '')
  if not good or type(outcome) ~= 'table' then return false end
  local status = type(outcome.error) == 'table' and tonumber(outcome.error.httpStatus) or 0
  return (outcome.outcome == 'failed' or outcome.outcome == 'expired') and
    (status == 408 or status == 429 or status >= 500)
end

-- args: persona task payload hash priority deadline_ms stream gateway resubmit retention_ms, anew
-- (1 = a passing failure is no answer to this request: it runs again)
local function enqueue(ns, a)
  local id, task, payload = a[1], a[2], a[3]
  local key, now = ns .. 't:' .. task, clock_ms()
  local known = call('HMGET', key, 'meta', 'state')
  if known[1] then
    local t = {}
    unpack_meta(t, known[1])
    if t.hash ~= a[4] or t.persona ~= id then return { 'conflict' } end
    if a[11] ~= '1' or known[2] ~= 'ended' or not may_mend(key) then return { 'duplicate', known[2] } end
  end
  local p = load_persona(ns, id)
  if not p then
    return { call('HEXISTS', ns .. 'p:' .. id, 'gone') == 1 and 'gone' or 'unknown' }
  end
  if p.suspended == 1 then return { 'suspended' } end
  local queue = ns .. 'q:' .. id
  local queued = call('ZCARD', queue)
  if queued >= p.max_length and a[9] ~= '1' then return { 'full', retry_after(ns, id, p, queued) } end
  if memory_above(ENQUEUE_MARK, now, #payload) then return { 'out_of_memory' } end

  if known[1] then call('DEL', key, ns .. 'out:' .. task) end
  p.seq = math.max(p.seq + 1, (now - EPOCH) * 16)
  p.arrived = p.arrived + 1
  local score = (100 - tonumber(a[5])) * BAND + p.seq
  local deadline = now + tonumber(a[6])
  call('HSET', key, 'state', 'queued', 'payload', payload, 'meta',
    cmsgpack.pack(id, score, deadline, tonumber(a[7]), a[8], now, tonumber(a[10]), a[4]))
  call('ZADD', queue, score, task)
  call('ZADD', ns .. 'due', deadline, task)
  save_persona(ns, id, p)
  if queued == 0 and p.pool ~= '' then call('SADD', ns .. 'active:' .. p.pool, id) end
  reindex(ns, id, p, now, 1)
  return { 'queued', queued + 1 }
end

register('enqueue', enqueue)
