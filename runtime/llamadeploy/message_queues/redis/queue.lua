-- One topic of the queue; see the package's documentation.
--
-- KEYS[1]  prefix of the topic's keys
-- ARGV     operation; its arguments (msgpack); a message's body

-- Of the present call.
local call, P, S, R, BODY, NOW

local BACK = '_back' -- the owner of what was handed back
local GROUP_SILENCES = 10 -- a broadcast group is forgotten after its consumer was silent so often
local INBOX_SECONDS = 60 -- an ephemeral topic whose consumer is silent for this long vanishes
local MARK_SECONDS = 86400 -- for this long nothing is published to a vanished topic

local OPS = {}

local function back(group)
  return P .. 'back:' .. group
end

local function wake(group)
  return P .. 'wake:' .. group
end

local function members(group)
  return P .. 'members:' .. group
end

-- Ids that sort as texts the way streams sort them.
local function sortable(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.rep('0', 20 - #number) .. number
end

local function plain(text)
  local ms, number = string.match(text, '^(%d+)-0*(%d+)$')
  return ms .. '-' .. number
end

-- One consumer that waits is told that something was handed back; it tells the next.
local function signal(group)
  call('XADD', wake(group), 'MAXLEN', 1, '*', 'w', 1)
end

local function make_group(group, from)
  -- An error reply means that it is there already.
  redis.pcall('XGROUP', 'CREATE', S, group, from, 'MKSTREAM')
  redis.pcall('XGROUP', 'CREATE', wake(group), group, '$', 'MKSTREAM')
end

local function group_exists(group)
  return call('ZSCORE', P .. 'groups', group) and call('EXISTS', S) == 1
end

local function owner(group, id)
  local found = call('XPENDING', S, group, id, id, 1)[1]
  return found and found[2]
end

local function hand_back(group, id)
  call('XCLAIM', S, group, BACK, 0, id, 'JUSTID')
  call('ZADD', back(group), 0, sortable(id))
end

local function held_by(group, consumer, idle)
  if idle then
    return call('XPENDING', S, group, 'IDLE', idle, '-', '+', 10000, consumer)
  end
  return call('XPENDING', S, group, '-', '+', 10000, consumer)
end

-- Everything the consumer holds, but for the ids in `known`, goes back; how much that was.
local function release(group, consumer, known, idle)
  local count = 0
  for _, entry in ipairs(held_by(group, consumer, idle)) do
    if not known[entry[1]] then
      hand_back(group, entry[1])
      count = count + 1
    end
  end
  if count > 0 then
    signal(group)
  end
  return count
end

local function remove_member(group, consumer)
  release(group, consumer, {})
  redis.pcall('XGROUP', 'DELCONSUMER', S, group, consumer)
  redis.pcall('XGROUP', 'DELCONSUMER', wake(group), group, consumer)
  call('ZREM', members(group), consumer)
end

local function remove_group(group)
  redis.pcall('XGROUP', 'DESTROY', S, group)
  call('UNLINK', back(group), wake(group), members(group))
  call('ZREM', P .. 'groups', group)
end

-- Forget consumers that are silent, and broadcast groups that have been for long.
local function reap(group, silence, broadcast)
  local late = call('ZRANGEBYSCORE', members(group), '-inf', '(' .. string.format('%.17g', NOW - silence))
  for _, consumer in ipairs(late) do
    if consumer ~= R.consumer then
      remove_member(group, consumer)
    end
  end
  if broadcast then
    local oldest = '(' .. string.format('%.17g', NOW - silence * GROUP_SILENCES)
    for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'groups', '-inf', oldest)) do
      if name ~= group then
        remove_group(name)
      end
    end
  end
end

local function fields(flat)
  local found = {}
  for at = 1, #flat, 2 do
    found[flat[at]] = flat[at + 1]
  end
  return found
end

local function groups()
  local found = {}
  if call('EXISTS', S) == 1 then
    for at, flat in ipairs(call('XINFO', 'GROUPS', S)) do
      found[at] = fields(flat)
    end
  end
  return found
end

local function is_before(one, two)
  return sortable(one) < sortable(two)
end

local function after(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(number) + 1)
end

-- Broadcast: what every group has behind it goes; what is pending anywhere stays.
local function trim()
  local first
  for _, group in ipairs(groups()) do
    local needed = after(group['last-delivered-id'])
    if group.pending > 0 then
      needed = call('XPENDING', S, group.name)[2]
    end
    if not first or is_before(needed, first) then
      first = needed
    end
  end
  if first then
    call('XTRIM', S, 'MINID', first)
  end
end

local function alive(group)
  call('ZADD', members(group), NOW, R.consumer)
  call('ZADD', P .. 'groups', NOW, group)
  if R.ephemeral then
    call('SET', P .. 'ephemeral', R.consumer, 'EX', MARK_SECONDS)
    for _, key in ipairs({ S, back(group), wake(group), members(group), P .. 'groups' }) do
      call('EXPIRE', key, INBOX_SECONDS)
    end
  end
end

function OPS.publish()
  if call('EXISTS', P .. 'ephemeral') == 1 and call('EXISTS', S) == 0 then
    return 0
  end
  call('XADD', S, '*', 'm', BODY)
  return 1
end

-- Where a new group begins: a broadcast has an audience if somebody else is alive.
local function beginning(group)
  if R.broadcast then
    local since = '(' .. string.format('%.17g', NOW - R.silence)
    for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'groups', since, '+inf')) do
      if name ~= group then
        return '$'
      end
    end
  end
  return '0'
end

-- Become a member (again); returns those of R.held that are still the consumer's.
function OPS.join()
  local group = R.group
  if not group_exists(group) then
    make_group(group, beginning(group))
  end
  make_group(group, '$')
  alive(group)
  reap(group, R.silence, R.broadcast)
  local kept, known = {}, {}
  for _, id in ipairs(R.held) do
    known[id] = true
    if owner(group, id) == R.consumer then
      kept[#kept + 1] = id
    end
  end
  release(group, R.consumer, known)
  return kept
end

local function settle(group, ...)
  call('XACK', S, group, ...)
  if not R.broadcast then
    call('XDEL', S, ...)
  end
end

-- Acknowledge R.done and hand back R.undone; what is somebody else's by now is left alone.
function OPS.settle()
  local group = R.group
  if not group_exists(group) then
    return
  end
  local mine = {}
  for _, id in ipairs(R.done) do
    if owner(group, id) == R.consumer then
      mine[#mine + 1] = id
    end
  end
  for first = 1, #mine, 1000 do
    settle(group, unpack(mine, first, math.min(first + 999, #mine)))
  end
  for _, id in ipairs(R.undone) do
    if owner(group, id) == R.consumer then
      hand_back(group, id)
    end
  end
  if #R.undone > 0 then
    signal(group)
  end
end

-- Up to R.room messages, what was handed back first; before that settle.
function OPS.take()
  local group, found = R.group, {}
  OPS.settle()
  if #R.signals > 0 then
    call('XACK', wake(group), group, unpack(R.signals))
    call('XDEL', wake(group), unpack(R.signals))
  end
  local ids = call('ZRANGE', back(group), 0, R.room - 1)
  for _, text in ipairs(ids) do
    local entry = call('XCLAIM', S, group, R.consumer, 0, plain(text))[1]
    call('ZREM', back(group), text)
    if entry then
      found[#found + 1] = entry
    end
  end
  if #ids == R.room and call('ZCARD', back(group)) > 0 then
    signal(group)
  end
  local room = R.room - #found
  if room > 0 then
    local read = call('XREADGROUP', 'GROUP', group, R.consumer, 'COUNT', room, 'STREAMS', S, '>')
    for _, entry in ipairs(read and read[1] and read[1][2] or {}) do
      found[#found + 1] = entry
    end
  end
  return found
end

-- Whether another group of a broadcast has put the message aside.
local function is_buried(id)
  local ids = P .. 'dead:ids'
  call('ZREMRANGEBYSCORE', ids, '-inf', NOW - MARK_SECONDS)
  local known = call('ZADD', ids, 'NX', NOW, id) == 0
  call('EXPIRE', ids, MARK_SECONDS)
  return known
end

-- Put a message aside that nobody can read; of an inbox it is dropped.
function OPS.bury()
  local group = R.group
  if not group_exists(group) or owner(group, R.id) ~= R.consumer then
    return
  end
  if not R.ephemeral and not (R.broadcast and is_buried(R.id)) then
    call('XADD', P .. 'dead:s', '*', 'm', BODY, 'reason', R.reason)
  end
  settle(group, R.id)
end

-- A sign of life; 0: the consumer was taken for dead, what it held is not its any more.
function OPS.beat()
  local group = R.group
  if not group_exists(group) or not call('ZSCORE', members(group), R.consumer) then
    return 0
  end
  alive(group)
  reap(group, R.silence, R.broadcast)
  -- What was given to the consumer and never reached it: its connection broke, and the server
  -- noticed that later than we did.
  local known = {}
  for _, id in ipairs(R.held) do
    known[id] = true
  end
  release(group, R.consumer, known, math.floor(R.silence * 1000))
  if R.broadcast then
    trim()
  end
  return 1
end

-- Remove the topic and its dead letters, which are a topic within it.
local function delete()
  local topic = P
  for _, prefix in ipairs({ topic, topic .. 'dead:' }) do
    P = prefix
    for _, group in ipairs(call('ZRANGE', P .. 'groups', 0, -1)) do
      call('UNLINK', back(group), wake(group), members(group))
    end
    call('UNLINK', P .. 's', P .. 'groups', P .. 'ids')
  end
  P = topic
end

-- Hand everything back; an ephemeral topic vanishes.
function OPS.leave()
  local group = R.group
  if R.ephemeral then
    if call('GET', P .. 'ephemeral') == R.consumer then
      delete()
      call('SET', P .. 'ephemeral', R.consumer, 'EX', MARK_SECONDS)
    end
  elseif group_exists(group) then
    remove_member(group, R.consumer)
    if R.broadcast then
      trim()
      remove_group(group)
    end
  end
end

function OPS.delete()
  delete()
end

-- Depth and the part of it that nobody holds; of a broadcast, what its slowest consumer has left.
function OPS.depth()
  local all = groups()
  local length = call('EXISTS', S) == 1 and call('XLEN', S) or 0
  if #all == 0 then
    return { length, length }
  end
  local depth, ready = 0, 0
  for _, group in ipairs(all) do
    local handed_back = call('ZCARD', back(group.name))
    local unread = R.broadcast and (group.lag or length) or length - group.pending
    depth = math.max(depth, unread + group.pending)
    ready = math.max(ready, unread + handed_back)
  end
  return { depth, ready }
end

local function run(keys, args)
  call = redis.call
  P, S = keys[1], keys[1] .. 's'
  R, BODY = cmsgpack.unpack(args[2]), args[3]
  local time = call('TIME')
  NOW = tonumber(time[1]) + tonumber(time[2]) / 1000000
  return OPS[args[1]]()
end
