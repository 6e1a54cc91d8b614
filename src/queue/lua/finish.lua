-- Ends a task with the outcome its worker reports.
-- args: task fence outcome(JSON) completed(1|0)
local function finish(ns, a)
  local t = fenced(ns, a[1], a[2])
  if not t then return 0 end
  local now = clock_ms()
  local p, orphan = persona_of(ns, t)
  stop(ns, t, p, now)
  local too_large = #a[3] > MOST_OUTCOME
  if too_large then
    end_without(ns, t, 'failed', 'answer_too_large',
      'the answer has more than ' .. MOST_OUTCOME .. ' bytes; ask for less', 502)
  else
    end_task(ns, t, a[3])
  end
  if p then
    if not orphan then acquit(ns, t.persona, p) end
    if a[4] == '1' and not too_large and not orphan then
      local service = now - t.taken_at
      p.completed = p.completed + 1
      p.wait_sum = p.wait_sum + t.taken_at - t.enqueued_at
      p.service_sum = p.service_sum + service
      p.service = math.max(1, math.floor(p.service == 0 and service or 0.8 * p.service + 0.2 * service + 0.5))
    end
    save_persona(ns, t.persona, p)
    reindex(ns, t.persona, p, now, FREED)
  end
  return 1
end

register('finish', finish, { 'allow-oom' })
