-- Lets one worker of a pool at a time start afresh, so that the others serve meanwhile: until it
-- registers again, or for a while.
-- args: worker pool for_ms
local function recycle(ns, a)
  local key = ns .. 'recycling:' .. a[2]
  local holder = call('HGET', key, 'worker')
  if holder and holder ~= a[1] then return 0 end
  call('HSET', key, 'worker', a[1])
  call('PEXPIRE', key, a[3])
  return 1
end

register('recycle', recycle, { 'allow-oom' })
