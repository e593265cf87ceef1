"""
The Lua scripts by which :class:`~docker_registry.drivers.cache.leased.LeasedCache` changes several keys of Redis
atomically.

An entry begins with its stamp, 40 hexadecimal digits: the hash of the generations of all folders above its path. Then
follow ``V`` and the value, or ``L`` and the token of a lease.

Source: https://redis.io/docs/latest/develop/programmability/eval-intro/
"""

from __future__ import annotations

from typing import Final

#: KEYS: generations, entries to look up, entries to replace by a lease, entries to remove; ARGV: a new token, the
#: lifetime of a new lease in milliseconds, the numbers of the generations and of the first two kinds of entries, then
#: for each of these entries the positions of its generations, separated by spaces. Entries are replaced and removed
#: only if all that are looked up have a value. Returns for each entry to look up ``V`` and the value or ``L`` and the
#: lease; then 1 if the others were replaced and removed, else 0; then the generations, separated by spaces.
LOOK_UP: Final = """
local function get(key)  -- false also for a key of another type, which is not ours and is replaced
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end
local count = tonumber(ARGV[3])
local looked_up = count + tonumber(ARGV[4])
local leased = looked_up + tonumber(ARGV[5])
local generations = {}
for i = 1, count do
  local generation = get(KEYS[i])
  generations[i] = generation and string.match(generation, '^%x+$')
end
local function stamp_of(i)
  local stamp = {}
  for position in string.gmatch(ARGV[5 + i - count], '%d+') do
    local generation = generations[tonumber(position)]
    if not generation then
      return nil
    end
    stamp[#stamp + 1] = generation
  end
  return redis.sha1hex(table.concat(stamp, ' '))
end
local answer, is_known = {}, true
for i = count + 1, looked_up do
  local stamp, found = stamp_of(i), get(KEYS[i])
  local entry = stamp and found and string.sub(found, 1, 40) == stamp and string.sub(found, 41)
  answer[i - count] = entry or false
  is_known = is_known and entry and string.sub(entry, 1, 1) == 'V'
end
for i = looked_up + 1, is_known and #KEYS or 0 do  -- first: a Redis that is out of memory refuses only what follows
  redis.call('DEL', KEYS[i])
end
for i = 1, count do
  if not generations[i] then
    generations[i] = ARGV[1]
    redis.call('SET', KEYS[i], ARGV[1])
  end
end
for i = count + 1, is_known and leased or looked_up do
  if i > looked_up or not answer[i - count] then
    redis.call('SET', KEYS[i], stamp_of(i) .. 'L' .. ARGV[1], 'PX', ARGV[2])
  end
  if i <= looked_up then
    answer[i - count] = answer[i - count] or 'L' .. ARGV[1]
  end
end
answer[#answer + 1] = is_known and '1' or '0'
answer[#answer + 1] = table.concat(generations, ' ')
return answer
"""

#: KEYS: the entry, the generations; ARGV: the lease, the value, its lifetime in milliseconds or 0 for no limit. Returns
#: 1 if the entry was filled, otherwise 0.
FILL: Final = """
local function get(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end
local stamp = {}
for i = 2, #KEYS do
  local generation = get(KEYS[i])
  if not generation then
    return 0
  end
  stamp[i - 1] = generation
end
stamp = redis.sha1hex(table.concat(stamp, ' '))
if get(KEYS[1]) ~= stamp .. 'L' .. ARGV[1] then
  return 0
end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], stamp .. 'V' .. ARGV[2])
else
  redis.call('SET', KEYS[1], stamp .. 'V' .. ARGV[2], 'PX', ARGV[3])
end
return 1
"""

#: KEYS: entries, generations, further entries; ARGV: the numbers of entries and of generations, the lifetime of the
#: values in milliseconds, then for each entry the positions of its generations, the lease and the value. Replaces
#: exactly these leases by the values, or removes the entries; removes the further ones. Returns for each entry 1 if it
#: has its value, otherwise 0.
SETTLE: Final = """
local entries, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local generations = {}
for i = 1, count do
  generations[i] = redis.pcall('GET', KEYS[entries + i])
end
for i = entries + count + 1, #KEYS do
  redis.call('DEL', KEYS[i])
end
local settled = {}
for i = 1, entries do
  local stamp, is_known = {}, true
  for position in string.gmatch(ARGV[1 + 3 * i], '%d+') do
    local generation = generations[tonumber(position)]
    is_known = is_known and type(generation) == 'string'
    stamp[#stamp + 1] = generation
  end
  stamp = is_known and redis.sha1hex(table.concat(stamp, ' '))
  if is_known and redis.pcall('GET', KEYS[i]) == stamp .. 'L' .. ARGV[2 + 3 * i] then
    redis.call('SET', KEYS[i], stamp .. 'V' .. ARGV[3 + 3 * i], 'PX', ARGV[3])
    settled[i] = 1
  else
    redis.call('DEL', KEYS[i])
    settled[i] = 0
  end
end
return settled
"""

#: KEYS: entries and generations; ARGV: the expected sum of the first values
#: (:func:`~docker_registry.drivers.cache.leased.sum_of`), then the expected value of each remaining key. Returns 1 if
#: all match, otherwise 0.
CONFIRM: Final = """
local found = redis.call('MGET', unpack(KEYS))
local summed = #KEYS - #ARGV + 1
for i = 1, #KEYS do
  local value = found[i]
  if not value or (i > summed and value ~= ARGV[i - summed + 1]) then
    return 0
  end
  found[i] = i > summed and '' or #value .. ':' .. value
end
return redis.sha1hex(table.concat(found)) == ARGV[1] and 1 or 0
"""
