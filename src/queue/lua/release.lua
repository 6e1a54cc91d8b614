-- Hands a running task back.

-- All personas of a provider wait until it may be asked again. A burst of equal refusals does it once.
local function hold_off(ns, id, p, until_ms, now)
  p.not_before = math.max(p.not_before, until_ms)
  if p.provider == '' then return end
  -- For autoscaling, which finds out how many requests at once the provider bears.
  call('HINCRBY', ns .. 'limited', p.provider, 1)
  call('PEXPIRE', ns .. 'limited', 3600000)
  local book = ns .. 'backoff'
  if until_ms <= tonumber(call('HGET', book, p.provider) or 0) + 50 then return end
  call('HSET', book, p.provider, until_ms)
  call('PEXPIRE', book, 3600000)
  for _, other in ipairs(call('SMEMBERS', ns .. 'personas')) do
    local q = other ~= id and load_persona(ns, other)
    if q and q.provider == p.provider and q.not_before < until_ms then
      q.not_before = until_ms
      save_persona(ns, other, q)
      reindex(ns, other, q, now, 0)
    end
  end
end

-- args: task fence reason(shutdown|rate_limited|failed) not_before_ms(from now)
local function release(ns, a)
  local t = fenced(ns, a[1], a[2])
  if not t then return 0 end
  local now, wait = clock_ms(), tonumber(a[4])
  local p, orphan = persona_of(ns, t)
  stop(ns, t, p, now)
  if p and not orphan and wait > 0 then
    if a[3] == 'rate_limited' then
      hold_off(ns, t.persona, p, now + wait, now)
    else
      p.not_before = math.max(p.not_before, now + wait)
    end
  end
  resume(ns, t, p, orphan, now, a[3] == 'failed' and 'the provider failed')
  if p then
    save_persona(ns, t.persona, p)
    reindex(ns, t.persona, p, now, 1)
  end
  return 1
end

register('release', release, { 'allow-oom' })
