-- What all verbs share: constants, time, memory, personas and tasks. KEYS[1] is the prefix of the
-- namespace, `<prefix>:{<namespace>}:` (`ns` below); every other key is derived from it.

local BAND = 2 ^ 45           -- scores: (100 - priority) * BAND + order, below 2^53
local REBASE = 2 ^ 44         -- a clock of virtual time beyond this is set back to 0
local UNIT = 256              -- virtual time of one millisecond at weight 1
local EPOCH = 1735689600000   -- 2025-01-01 in ms: orders count sixteenths of a ms from here
local SERVICE_PRIOR = 100     -- ms charged for a task of a persona that has not completed one
local BELL = 64               -- wake-up tokens kept a pool and lane
local RING_EVERY = 50         -- ms between two rings of the doorbell for one pool
local LOOK_EVERY = 5          -- ms between two looks for an idle slot of one pool
local LOOK_AHEAD = 16         -- personas of a priority that a worker chooses among by what it has loaded
local PASSES = 8              -- tasks in a row that a choice may put before a waiting persona
local LIVE = 15000            -- ms after its last heartbeat that a worker counts as capacity
local TOMBSTONE = 600000      -- ms that a removed persona is remembered
local DEAD_LETTERS = 1000
local QUARANTINE_AFTER = 3         -- workers lost in a row to requests of a persona that ran alone
local QUARANTINE_FIRST = 30000     -- ms of the first quarantine; each one more is twice as long
local QUARANTINE_LONGEST = 1800000
local DEAD_PAYLOAD = 65536    -- bytes of a payload that a dead letter keeps
-- What one task may say, in bytes of JSON: its outcome, and all its chunks. Workers keep well below; one that
-- does not must not fill Redis and the gateways. A subscriber of Redis is cut off at 32 MiB.
local MOST_OUTCOME, MOST_OUTPUT = 5242880, 16777216
local ENQUEUE_MARK, TAKE_MARK = 0.90, 0.95

local call -- redis.call, which exists only once a function runs

local function register(verb, body, flags)
  redis.register_function {
    function_name = LIBRARY .. '_' .. verb,
    callback = function(keys, args)
      call = redis.call
      return body(keys[1], args)
    end,
    flags = flags,
  }
end

local function clock_ms()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- INFO costs as much as five other commands, so it is asked once in 100 ms or after 1 MB of payloads.
local memory = { at = -1, bytes = 0, used = 0 }

local function memory_above(mark, now, bytes)
  memory.bytes = memory.bytes + bytes
  if now < memory.at or now - memory.at >= 100 or memory.bytes > 1048576 then
    local info = call('INFO', 'memory')
    local max = tonumber(string.match(info, 'maxmemory:(%d+)'))
    local used = tonumber(string.match(info, 'used_memory:(%d+)'))
    memory.used = max > 0 and used / max or 0
    memory.at, memory.bytes = now, 0
  end
  return memory.used >= mark
end

-- `route` is what the controller says of a persona, `live` what the verbs keep; both packed, because
-- every verb reads and most write them.
local function unpack_persona(route, live)
  local p = {}
  p.pool, p.lane, p.concurrency, p.max_length, p.priority, p.weight, p.suspended, p.max_attempts,
    p.generation, p.provider, p.since, p.needs = cmsgpack.unpack(route)
  p.needs = p.needs or '' -- an earlier version wrote none
  if live then
    p.vt, p.seq, p.not_before, p.service, p.arrived, p.completed, p.wait_sum, p.service_sum, p.lost,
      p.passed = cmsgpack.unpack(live)
    p.lost, p.passed = p.lost or 0, p.passed or 0 -- an earlier version wrote none
  else
    p.vt, p.seq, p.not_before, p.service = 0, 0, 0, 0
    p.arrived, p.completed, p.wait_sum, p.service_sum, p.lost, p.passed = 0, 0, 0, 0, 0, 0
  end
  return p
end

local function pack_route(p)
  return cmsgpack.pack(p.pool, p.lane, p.concurrency, p.max_length, p.priority, p.weight, p.suspended,
    p.max_attempts, p.generation, p.provider, p.since, p.needs)
end

local function pack_live(p)
  return cmsgpack.pack(p.vt, p.seq, p.not_before, p.service, p.arrived, p.completed, p.wait_sum,
    p.service_sum, p.lost, p.passed)
end

local function load_persona(ns, id)
  local h = call('HMGET', ns .. 'p:' .. id, 'route', 'live')
  return h[1] and unpack_persona(h[1], h[2])
end

local function save_persona(ns, id, p)
  call('HSET', ns .. 'p:' .. id, 'live', pack_live(p))
end

-- `meta` never changes after the enqueue; `run` is there while a worker holds the task.
local function unpack_meta(t, meta)
  t.persona, t.score, t.deadline, t.stream, t.channel, t.enqueued_at, t.retention, t.hash =
    cmsgpack.unpack(meta)
end

local function load_task(ns, task)
  local h = call('HMGET', ns .. 't:' .. task, 'state', 'meta', 'run', 'attempts', 'solo', 'emitted')
  if not h[2] then return nil end
  local t = { id = task, state = h[1], attempts = tonumber(h[4] or 0), solo = h[5] == '1',
    emitted = h[6] }
  unpack_meta(t, h[2])
  if t.state == 'running' then
    t.fence, t.worker, t.own, t.taken_at, t.charged, t.alone = cmsgpack.unpack(h[3])
  end
  return t
end

-- The persona of a task; none when it was deleted, also if another of its name has come since.
local function persona_of(ns, t)
  local p = load_persona(ns, t.persona)
  if p and t.enqueued_at < p.since then return p, true end
  return p, not p
end

-- The task, if this fence holds it: state running and the very same fence.
local function fenced(ns, task, fence)
  local t = load_task(ns, task)
  if t and t.state == 'running' and t.fence == fence then return t end
  return nil
end
