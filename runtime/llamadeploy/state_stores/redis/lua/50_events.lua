-- The event log of a task (`e:<id>`: msgpack of attempt, index, type, data; `seq` is the place in
-- the list, from 1) and its inbound log (`in:<id>`).
--
-- An attempt almost always writes indices in one unbroken run: [first, next). Whatever came out of
-- turn is in the set `odd:<id>`; `top` is one above the highest index. All of these are the present
-- attempt's.

local function forget_run(t)
  if t.odd then
    call('DEL', P .. 'odd:' .. t.task_id)
  end
  t.first, t.next, t.top, t.odd = nil, nil, nil, nil
end

-- Whether the index is new; notes it.
local function admit(t, index)
  if not t.first then
    t.first, t.next, t.top = index, index + 1, index + 1
    return true
  end
  if index >= t.first and index < t.next then
    return false
  end
  if t.odd and call('SISMEMBER', P .. 'odd:' .. t.task_id, index) == 1 then
    return false
  end
  if index == t.next then
    t.next = index + 1
  else
    call('SADD', P .. 'odd:' .. t.task_id, index)
    t.odd = true
  end
  t.top = math.max(t.top, index + 1)
  return true
end

-- Append as the present attempt, whatever the task's state is. The caller saves.
local function write_events(t, events)
  if #events == 0 then
    return
  end
  local key, attempt, fresh = P .. 'e:' .. t.task_id, t.attempt, {}
  for _, event in ipairs(events) do
    if admit(t, event.index) then
      fresh[#fresh + 1] = cmsgpack.pack({ attempt, event.index, event.type, event.data })
      if #fresh == 1000 then
        call('RPUSH', key, unpack(fresh))
        fresh = {}
      end
    end
  end
  if #fresh > 0 then
    call('RPUSH', key, unpack(fresh))
  end
  touch(t.task_id)
end

-- How many indices the stream has with the present attempt.
local function count_events(t)
  return math.max(t.base_index or 0, t.top or 0)
end

local function inbound_after(id, after)
  local found = {}
  for offset, event in ipairs(call('LRANGE', P .. 'in:' .. id, after, -1)) do
    found[offset] = { seq = after + offset, event = event }
  end
  return found
end

function OPS.append_events()
  local t = find(R.key.task_id)
  if not current(t, R.key.attempt) then
    return false
  end
  write_events(t, R.events)
  save(t)
  return true
end

function OPS.append_foreign_event()
  local t = find(R.task_id)
  if not is_live(t) then
    return false
  end
  write_events(t, { R.event })
  save(t)
  return true
end

function OPS.read_log()
  local t = require_task(R.task_id)
  local page = {
    state = shown(t),
    attempt = t.attempt,
    bases = t.bases or {},
    event_count = count_events(t),
  }
  return page, call('LRANGE', P .. 'e:' .. t.task_id, R.after, R.after + R.limit - 1)
end

function OPS.append_inbound()
  local t = require_task(R.task_id)
  if TERMINAL[t.state] then
    return { seq = t.inbound_seq or 0, state = t.state }
  end
  t.inbound_seq = call('RPUSH', P .. 'in:' .. t.task_id, R.event)
  local outcome = { seq = t.inbound_seq, state = shown(t) }
  if t.state == 'waiting' then
    outcome.publish = { requeue(t) }
  else
    outcome.owner = t.state == 'running' and t.worker_id or nil
    save(t)
  end
  return outcome
end

function OPS.read_inbound()
  local t = find(R.key.task_id)
  if not t or t.attempt ~= R.key.attempt then
    return {}
  end
  return inbound_after(R.key.task_id, R.after)
end
