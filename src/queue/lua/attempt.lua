-- How an attempt begins and ends.

-- Message to the task's gateway: `<kind> <task> <entry id>`, newline, JSON.
local function tell(ns, t, kind, entry, json)
  if t.channel ~= '' then
    call('PUBLISH', ns .. 'gw:' .. t.channel, kind .. ' ' .. t.id .. ' ' .. entry .. '\n' .. json)
  end
end

-- Virtual time for service of that many ms.
local function charge(p, ms)
  return math.max(1, math.floor(math.max(ms, 1) * UNIT / p.weight))
end

-- What a task of that persona is charged when it begins.
local function charge_ahead(p)
  return charge(p, p.service > 0 and p.service or SERVICE_PRIOR)
end

-- Gives a worker a task that has left its persona's queue; the caller writes persona, run set and
-- clock. `c` = {id, p, running, tasks}, `w` = the worker, `clock` = the pool's for this priority.
-- Answers the description of the task and the new clock.
local function begin(ns, t, c, w, clock, now)
  local p = c.p
  local charged = charge_ahead(p)
  clock = math.max(p.vt, clock)
  p.vt = clock + charged
  p.passed = 0
  c.running = c.running + 1
  c.tasks[#c.tasks + 1] = t.id
  w.held = w.held + 1
  w.count = w.count + 1
  w.solo = t.solo
  local own = p.pool == w.pool and 1 or 0
  if own == 1 then w.own = true end
  local fence = w.instance .. ':' .. w.call .. '.' .. w.count
  local alone = (t.solo or w.slots == 1) and 1 or 0
  call('HSET', ns .. 't:' .. t.id, 'state', 'running', 'run',
    cmsgpack.pack(fence, w.uid, own, now, charged, alone))
  w.leases[#w.leases + 1] = now + w.lease
  w.leases[#w.leases + 1] = t.id
  w.tasks[#w.tasks + 1] = t.id
  return { t.id, c.id, fence, t.payload, p.generation, t.attempts + 1, t.deadline - now,
    now - t.enqueued_at, t.stream, t.solo and 1 or 0, p.pool, p.since }, clock
end

-- Writes down what `begin` gave a worker.
local function hand_over(ns, w, now)
  if #w.tasks == 0 then return end
  call('ZADD', ns .. 'lease:' .. w.uid, unpack(w.leases))
  call('ZREM', ns .. 'due', unpack(w.tasks))
  local fields = {}
  if w.own then fields = { 'active_at', now } end
  if w.solo ~= w.was_solo then
    fields[#fields + 1] = 'solo'
    fields[#fields + 1] = w.solo and 1 or 0
  end
  if #fields > 0 then call('HSET', ns .. 'w:' .. w.uid, unpack(fields)) end
end

-- The one outcome. Clears the fence.
local function end_task(ns, t, outcome)
  local key = ns .. 't:' .. t.id
  call('HSET', key, 'state', 'ended', 'run', '', 'payload', '', 'outcome', outcome)
  call('PEXPIRE', key, t.retention)
  if t.emitted then call('PEXPIRE', ns .. 'out:' .. t.id, t.retention) end
  tell(ns, t, 'e', '-', outcome)
end

-- An end that no worker tells of. Who makes metrics of them is told by `reap`.
local function end_without(ns, t, outcome, code, message, status)
  end_task(ns, t, cjson.encode {
    outcome = outcome,
    error = { code = code, message = message, httpStatus = status },
  })
  call('HINCRBY', ns .. 'ended', outcome, 1)
  call('PEXPIRE', ns .. 'ended', 3600000)
end

local function expire(ns, t)
  end_without(ns, t, 'expired', 'expired', 'no worker was free before the deadline', 504)
end

local function orphaned(ns, t)
  end_without(ns, t, 'failed', 'persona_deleted', 'the persona was deleted', 404)
end

-- Takes a running task off its worker and persona, and charges what it really took (not to another
-- persona of the same name).
local function stop(ns, t, p, now)
  call('SREM', ns .. 'run:' .. t.persona, t.id)
  call('ZREM', ns .. 'lease:' .. t.worker, t.id)
  if t.own == 1 then call('HSET', ns .. 'w:' .. t.worker, 'active_at', now) end
  if p and t.enqueued_at >= p.since then p.vt = math.max(0, p.vt - t.charged + charge(p, now - t.taken_at)) end
end

-- Back to its old place, which is the head of its priority. What it has said so far is forgotten.
local function requeue(ns, t)
  local key = ns .. 't:' .. t.id
  call('HSET', key, 'state', 'queued', 'run', '', 'attempts', t.attempts, 'solo', t.solo and 1 or 0)
  if t.emitted then
    call('HDEL', key, 'emitted')
    call('DEL', ns .. 'out:' .. t.id)
  end
  call('ZADD', ns .. 'q:' .. t.persona, t.score, t.id)
  call('ZADD', ns .. 'due', t.deadline, t.id)
  tell(ns, t, 'r', '-', '')
end

local function bury(ns, t, reason)
  local payload = call('HGET', ns .. 't:' .. t.id, 'payload') or ''
  if #payload > DEAD_PAYLOAD then payload = '' end
  call('XADD', ns .. 'dead', 'MAXLEN', '~', DEAD_LETTERS, '*', 'task', t.id, 'persona', t.persona,
    'reason', reason, 'attempts', t.attempts, 'payload', payload)
  end_without(ns, t, 'dead', 'dead', reason .. ', ' .. t.attempts .. ' times', 500)
end

-- What becomes of a task whose attempt stopped without an outcome. `reason`, if given, says that it
-- used up an attempt, and how.
local function resume(ns, t, p, orphan, now, reason)
  if reason then t.attempts = t.attempts + 1 end
  if orphan then
    orphaned(ns, t)
    return 'removed'
  elseif t.stream == 1 and t.emitted then
    end_without(ns, t, 'failed', 'interrupted', 'the worker went away in the middle of the answer', 502)
    return 'interrupted'
  elseif reason and t.attempts >= p.max_attempts then
    bury(ns, t, reason)
    return 'dead'
  elseif t.deadline <= now then
    expire(ns, t)
    return 'expired'
  end
  requeue(ns, t)
  return 'requeued'
end

-- A worker was lost that ran nothing but a task of this persona. Who does that again and again would take
-- down a pool that others share: it waits, twice as long each time, and then runs one task at a time, alone.
local function suspect(ns, id, p, now)
  p.lost = p.lost + 1
  if p.lost < QUARANTINE_AFTER or call('SCARD', ns .. 'members:' .. p.pool) < 2 then return end
  local pause = math.min(QUARANTINE_LONGEST, QUARANTINE_FIRST * 2 ^ (p.lost - QUARANTINE_AFTER))
  p.not_before = math.max(p.not_before, now + pause)
  call('ZADD', ns .. 'quarantine', now + pause, id)
end

-- A worker survived one of its tasks, or its configuration is another one.
local function acquit(ns, id, p)
  if p.lost >= QUARANTINE_AFTER then
    p.not_before = 0
    call('ZREM', ns .. 'quarantine', id)
  end
  p.lost = 0
end

local function is_suspect(p)
  return p.lost >= QUARANTINE_AFTER
end

-- Gives back tasks that a worker has lost. One that was not alone runs alone the next time: only
-- then it is known to be the cause, so only a loss alone counts as an attempt.
local function lose(ns, worker, tasks, now, report)
  for _, task in ipairs(tasks) do
    local t = load_task(ns, task)
    if t and t.state == 'running' and t.worker == worker then
      local p, orphan = persona_of(ns, t)
      stop(ns, t, p, now)
      call('PUBLISH', ns .. 'ctl:' .. worker, task)
      t.solo = true
      local alone = t.alone == 1 and 'workers were lost running this request alone'
      if alone and p and not orphan then suspect(ns, t.persona, p, now) end
      report[#report + 1] = { task, t.persona, resume(ns, t, p, orphan, now, alone) }
      if p then
        save_persona(ns, t.persona, p)
        reindex(ns, t.persona, p, now, 1)
      end
    else
      call('ZREM', ns .. 'lease:' .. worker, task)
    end
  end
end
