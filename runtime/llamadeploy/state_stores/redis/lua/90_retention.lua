-- Forgetting: finished tasks, idle sessions, deleted sessions. Tombstones stay, longer than any
-- queue redelivers a message.

local TOMBSTONE_SECONDS = 7 * 86400

-- Delete tasks with all that hangs off them. `whole`: their sessions are deleted too.
local function forget(tasks, whole)
  local until_then = score(NOW + TOMBSTONE_SECONDS)
  local ids, keys, tombstones = {}, {}, {}
  for _, t in ipairs(tasks) do
    local id = t.task_id
    if standing[id] then -- else it was in the list before
      leave_outbox(t)
      reindex(id, standing[id], NOWHERE)
      if not whole then
        call('ZREM', P .. 'of:' .. t.session_id, id)
      end
      if t.parent then
        call('SREM', P .. 'calls:' .. t.parent, id)
      end
      extend(keys, {
        P .. 't:' .. id, texts(id), P .. 'e:' .. id, P .. 'odd:' .. id, P .. 'in:' .. id,
        P .. 'calls:' .. id,
      })
      extend(tombstones, { until_then, mark(id) })
      ids[#ids + 1] = id
      loaded[id], standing[id] = nil, nil
      touch(id)
      ended[#ended + 1] = { id, false }
    end
  end
  call_for_all('UNLINK', nil, keys)
  call_for_all('ZREM', P .. 'tasks', ids)
  call_for_all('ZADD', P .. 'tombstones', tombstones)
end

local function has_tasks(session_id)
  return call('EXISTS', P .. 'of:' .. session_id) == 1
end

-- Without their tasks.
local function delete_sessions(ids)
  local keys = {}
  for _, id in ipairs(ids) do
    extend(keys, { session(id), P .. 'state:' .. id, P .. 'context:' .. id, P .. 'of:' .. id })
  end
  call_for_all('UNLINK', nil, keys)
  call_for_all('ZREM', P .. 'sessions', ids)
end

-- Whether the session was touched before; then it is gone now.
local function delete_idle(session_id, older_than)
  local touched_at = tonumber(value(call('HGET', session(session_id), 'touched_at')))
  if touched_at and touched_at < older_than then
    delete_sessions({ session_id })
  end
  return touched_at
end

-- Finished tasks, oldest first. A live caller keeps its finished calls: when it runs again it finds
-- them instead of repeating.
local function expired(older_than, limit)
  local tasks, skipped, key = {}, 0, P .. 'timer:ended'
  local highest = '(' .. score(older_than)
  while #tasks < limit do
    local page = call('ZRANGEBYSCORE', key, '-inf', highest, 'LIMIT', #tasks + skipped, limit)
    for _, id in ipairs(page) do
      local t = find(id)
      if t.parent and is_live(find(t.parent)) then
        skipped = skipped + 1
      elseif #tasks < limit then
        tasks[#tasks + 1] = t
      end
    end
    if #page < limit or skipped > 20 * limit then
      break
    end
  end
  return tasks
end

-- Remove idle sessions that have no task to expire; look at the others later again.
local function check_sessions(older_than, limit)
  local highest = '(' .. score(older_than)
  local ids = call('ZRANGEBYSCORE', P .. 'sessions', '-inf', highest, 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    if has_tasks(id) then
      call('ZADD', P .. 'sessions', NOW_SCORE, id)
    else
      local touched_at = delete_idle(id, older_than)
      if touched_at and touched_at >= older_than then
        call('ZADD', P .. 'sessions', score(touched_at), id)
      end
    end
  end
end

function OPS.expire()
  local older_than, limit = R.older_than, R.limit
  local tasks = expired(older_than, limit)
  forget(tasks)
  for _, t in ipairs(tasks) do
    if not has_tasks(t.session_id) then
      delete_idle(t.session_id, older_than)
    end
  end
  check_sessions(older_than, limit)
  for _, id in ipairs(due(P .. 'letters:time', '(' .. score(older_than), limit)) do
    delete_letter(id)
  end
  local over = due(P .. 'tombstones', NOW_SCORE, limit)
  if #over > 0 then
    call('ZREM', P .. 'tombstones', unpack(over))
  end
  return #tasks
end

function OPS.delete_session()
  if call('EXISTS', session(R)) == 0 then
    return nil
  end
  local tasks, live = {}, {}
  for at, id in ipairs(call('ZRANGE', P .. 'of:' .. R, 0, -1)) do
    tasks[at] = find(id)
    if is_live(tasks[at]) then
      live[#live + 1] = tasks[at]
    end
  end
  local nudge, rows = {}, {}
  if #live > 0 then
    nudge, rows = cancel_tree(live, 'its session was deleted')
  end
  forget(tasks, true)
  delete_sessions({ R })
  return { state = 'cancelled', changed = #live > 0, nudge = nudge, publish = rows }
end

-- Sessions without unfinished tasks; returns the others.
function OPS.forget_sessions()
  local busy, gone, all = {}, {}, {}
  for _, id in ipairs(R) do
    local tasks, live = {}, false
    for at, task_id in ipairs(call('ZRANGE', P .. 'of:' .. id, 0, -1)) do
      tasks[at] = find(task_id)
      live = live or is_live(tasks[at])
    end
    if live then
      busy[#busy + 1] = id
    else
      gone[#gone + 1] = id
      extend(all, tasks)
    end
  end
  forget(all, true)
  delete_sessions(gone)
  return busy
end
