-- What is registered of a persona.
-- args: persona
local function registration(ns, a)
  local h = call('HMGET', ns .. 'p:' .. a[1], 'uid', 'epoch', 'route')
  if not h[1] then return false end
  local p = unpack_persona(h[3])
  return { h[1], p.pool, h[2], p.generation, p.needs }
end

register('registration', registration, { 'no-writes' })
