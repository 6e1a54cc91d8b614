-- Registration of workers.

-- args: worker instance pool slots running memory lanes(newline between) address loaded(newline
-- between) load_failures(JSON) recycle(why it asks to be replaced); the last three are '' where there are none
local function note_worker(ns, a, now)
  call('HSET', ns .. 'w:' .. a[1], 'instance', a[2], 'pool', a[3], 'slots', a[4], 'reported', a[5],
    'memory', a[6], 'lanes', a[7], 'address', a[8], 'loaded', a[9], 'load_failures', a[10], 'recycle', a[11],
    'heartbeat_at', now)
  call('ZADD', ns .. 'workers:' .. a[3], now, a[1])
  call('ZADD', ns .. 'workers', now, a[1])
end

-- Wakes a worker for work that others left, on every lane that has some.
local function ring_lanes(ns, pool, lanes, now)
  for _, lane in ipairs(lanes) do
    if call('EXISTS', ns .. 'ready:' .. pool .. ':' .. lane) == 1 then
      ring(ns, { pool = pool, lane = lane }, now, 1, false)
    end
  end
end

local function split_lanes(text)
  local lanes = {}
  for lane in string.gmatch(text or '', '[^\n]+') do lanes[#lanes + 1] = lane end
  return lanes
end
