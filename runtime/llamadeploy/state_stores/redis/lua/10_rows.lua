-- Tasks. `t:<id>` is the msgpack of all that is short, `x:<id>` a hash with the texts: input,
-- stage_input, snapshot, result, data. What a field means stands beside the columns of
-- llamadeploy.state_stores.sqlite.schema; here an absent field is its default.
--
-- timer   queued: last dispatch (absent: not its turn yet); running: end of the lease;
--         waiting: the deadline; routing: last dispatch; terminal: when it finished
-- place   order within (session, service); absent: holds no place
--
-- Indices, kept by `save` alone: `timer:<state>` (all terminal states: `timer:ended`), `deadline`,
-- `counts` (tasks by state, of those that `timer:<state>` does not count), and per service `ready:<service>` (whose turn it is, by how long they have waited) and
-- `load:<service>` (blocked, waiting, running by worker, and how many of these are in custody).

local function stand(t)
  local state = t.state
  local s = { count = state, service = t.service, at = t.timer, deadline = t.queue_deadline }
  if t.timer then
    s.timer = TERMINAL[state] and 'ended' or state
  end
  if state == 'queued' then
    if t.timer then
      s.since = t.attempt == 0 and t.created_at or t.timer
      s.count = nil
    else
      s.load, s.count = 'blocked', 'blocked'
    end
  elseif state == 'waiting' then
    s.load = 'waiting'
  elseif state == 'running' then
    s.count = nil
    s.load = 'worker:' .. (t.worker_id or '')
    s.custody = t.custody_attempt == t.attempt
  end
  return s
end

local NOWHERE = {}

local function count_load(service, field, step)
  local key = P .. 'load:' .. service
  if call('HINCRBY', key, field, step) == 0 then
    call('HDEL', key, field)
  end
end

local function reindex(id, old, new)
  if old.count ~= new.count then
    if old.count then
      call('HINCRBY', P .. 'counts', old.count, -1)
    end
    if new.count then
      call('HINCRBY', P .. 'counts', new.count, 1)
    end
  end
  if old.timer and old.timer ~= new.timer then
    call('ZREM', P .. 'timer:' .. old.timer, id)
  end
  if new.timer and (old.timer ~= new.timer or old.at ~= new.at) then
    call('ZADD', P .. 'timer:' .. new.timer, score(new.at), id)
  end
  if old.deadline and not new.deadline then
    call('ZREM', P .. 'deadline', id)
  elseif new.deadline and old.deadline ~= new.deadline then
    call('ZADD', P .. 'deadline', score(new.deadline), id)
  end
  local moved = old.service ~= new.service
  if old.since and (moved or not new.since) then
    call('ZREM', P .. 'ready:' .. old.service, id)
  end
  if new.since and (moved or old.since ~= new.since) then
    call('ZADD', P .. 'ready:' .. new.service, score(new.since), id)
  end
  if moved or old.load ~= new.load then
    if old.load then
      count_load(old.service, old.load, -1)
    end
    if new.load then
      count_load(new.service, new.load, 1)
    end
  end
  if old.custody and (moved or not new.custody) then
    count_load(old.service, 'custody', -1)
  end
  if new.custody and (moved or not old.custody) then
    count_load(new.service, 'custody', 1)
  end
end

local function texts(id)
  return P .. 'x:' .. id
end

-- The task, or nil; the same table however often it is asked for.
local function find(id)
  local t = loaded[id]
  if not t then
    local packed = call('GET', P .. 't:' .. id)
    if not packed then
      return nil
    end
    t = cmsgpack.unpack(packed)
    loaded[id], standing[id] = t, stand(t)
  end
  return t
end

local function require_task(id)
  return find(id)
    or refuse('NotFoundError', "task '" .. id .. "' does not exist (or has expired)")
end

local function save(t)
  local id = t.task_id
  local now = stand(t)
  reindex(id, standing[id] or NOWHERE, now)
  loaded[id], standing[id] = t, now
  call('SET', P .. 't:' .. id, cmsgpack.pack(t))
end

local function shown(t)
  return t.state == 'routing' and 'running' or t.state
end

-- Whether `attempt` is the one that runs now.
local function current(t, attempt)
  return t ~= nil and t.state == 'running' and t.attempt == attempt
end

local function is_live(t)
  return t ~= nil and not TERMINAL[t.state]
end

-- What is left of a forgotten task: 64 bits of a hash of its id.
local function mark(id)
  return string.sub(redis.sha1hex(id), 1, 16)
end

local function is_buried(id)
  return has_member(P .. 'tombstones', mark(id))
end
