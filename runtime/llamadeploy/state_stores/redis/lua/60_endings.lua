-- The end of a task: its one result, and what that sets free.

-- `data` of a task that the store ended itself.
local function error_data(state, kind, message)
  local failure = { type = kind, message = message, traceback = '' }
  return cjson.encode({ state = state, error = failure })
end

local function write_result(t, result, data)
  local key = texts(t.task_id)
  call('HSET', key, 'result', result)
  if data then
    call('HSET', key, 'data', data)
  elseif t.stage then
    call('HDEL', key, 'data') -- of the stage before
  end
end

local TOLD_RESULT = 16384 -- bytes of result and data that whoever waits is told; else they read

local function tell_end(t, result, data)
  local told = #result + (data and #data or 0) <= TOLD_RESULT and record(t, result, data)
  ended[#ended + 1] = { t.task_id, told }
end

-- Write the result of an unfinished task. The caller hands its place on.
local function close(t, state, result, data, keep_snapshot)
  leave_place(t)
  leave_outbox(t)
  t.state, t.timer, t.finished_at, t.queue_deadline = state, NOW, NOW, nil
  t.event_count = count_events(t)
  write_result(t, result, data)
  if t.parked_attempt and not keep_snapshot then
    call('HDEL', texts(t.task_id), 'snapshot')
  end
  touch(t.task_id)
  observe('ended', t.service, t.task_id, state)
  save(t)
  tell_end(t, result, data)
end

-- Write the result and free the place; returns the next one's row.
local function finish_task(t, state, result, data, keep_snapshot)
  local held = t.place
  close(t, state, result, data, keep_snapshot)
  return held and advance(t.session_id, t.service) or {}
end

-- End several before a place is handed on, so that none of them is handed out meanwhile.
local function finish_all(tasks, finish)
  local places, seen = {}, {}
  for _, t in ipairs(tasks) do
    local key = t.place and order(t.session_id, t.service)
    if key and not seen[key] then
      seen[key] = true
      places[#places + 1] = { key, t.session_id, t.service }
    end
    finish(t)
  end
  table.sort(places, function(one, two)
    return one[1] < two[1]
  end)
  local rows = {}
  for _, place in ipairs(places) do
    extend(rows, advance(place[2], place[3]))
  end
  return rows
end

local function add_letter(reason, message, service, task_id)
  local id = call('INCR', P .. 'letters:last')
  local letter = {
    letter_id = id,
    created_at = NOW,
    reason = reason,
    service = service,
    task_id = task_id,
    message = message,
  }
  call('HSET', P .. 'letters', id, cmsgpack.pack(letter))
  call('ZADD', P .. 'letters:time', NOW_SCORE, id)
  observe('dead_letter', service)
  return id
end

-- End a task as failed and put it among the dead letters; a retry resumes its snapshot.
local function give_up(t, kind, message)
  add_letter(message, nil, t.service, t.task_id)
  return finish_task(t, 'failed', message, error_data('failed', kind, message), true)
end

-- A service delivered: end the task, or let the orchestrator say what follows.
local function deliver(t, state, result, data)
  if not t.orchestrated then
    return finish_task(t, state, result, data)
  end
  local held = t.place
  leave_place(t)
  t.queue_deadline, t.execution_id, t.worker_id = nil, nil, nil
  t.stage = (t.stage or 0) + 1
  t.base_index = count_events(t)
  t.consumed_seq = t.inbound_seq
  write_result(t, result, data)
  call('HDEL', texts(t.task_id), 'snapshot')
  local rows = { start_routing(t) }
  return held and extend(rows, advance(t.session_id, t.service)) or rows
end

-- Whether this very completion was accepted before (its answer got lost).
local function is_repeat(t)
  return t.attempt == R.key.attempt
    and t.state == R.state
    and call('HGET', texts(t.task_id), 'result') == R.result
end

local REJECTED = { accepted = false }

function OPS.finish()
  local t = find(R.key.task_id)
  if not t then
    return REJECTED
  elseif not current(t, R.key.attempt) then
    return { accepted = is_repeat(t) }
  end
  write_events(t, R.events)
  observe('ran', t.service, t.task_id)
  local failed = R.state == 'failed'
  if failed and t.retry_on_error and R.retryable and t.crashes + t.errors < t.max_retries then
    observe('redelivered', t.service)
    t.errors = t.errors + 1
    return { accepted = true, publish = { requeue(t) } }
  end
  if not failed and R.context and not t.detached then
    write_context(t.session_id, t.service, R.context)
  end
  return { accepted = true, publish = deliver(t, R.state, R.result, R.data) }
end

function OPS.complete()
  local t = find(R.task_id)
  if not is_live(t) or t.state == 'routing' then
    return REJECTED
  end
  local state = R.failed and 'failed' or 'succeeded'
  return { accepted = true, publish = deliver(t, state, R.result, R.data) }
end

function OPS.give_up()
  local t = find(R.task_id)
  if not t or t.state ~= 'queued' then
    return REJECTED
  end
  return { accepted = true, publish = give_up(t, 'MessageLost', R.reason) }
end

-- The unfinished tasks among these and the calls below them.
local function tree_of(tasks)
  local tree, seen, pending = {}, {}, extend({}, tasks)
  while #pending > 0 do
    local t = table.remove(pending)
    if not seen[t.task_id] then
      seen[t.task_id] = true
      tree[#tree + 1] = t
      for _, id in ipairs(call('SMEMBERS', P .. 'calls:' .. t.task_id)) do
        local child = find(id)
        if is_live(child) then
          pending[#pending + 1] = child
        end
      end
    end
  end
  return tree
end

-- Returns the workers to nudge, and rows to publish.
local function cancel_tree(tasks, reason)
  local data, nudge = error_data('cancelled', 'Cancelled', reason), {}
  local rows = finish_all(tree_of(tasks), function(t)
    if t.state == 'running' and t.worker_id then
      nudge[#nudge + 1] = { t.task_id, t.worker_id }
    end
    close(t, 'cancelled', reason, data)
  end)
  return nudge, rows
end

function OPS.cancel()
  local t = require_task(R.task_id)
  if TERMINAL[t.state] then
    return { state = t.state, changed = false }
  end
  local nudge, rows = cancel_tree({ t }, R.reason)
  return { state = 'cancelled', changed = true, nudge = nudge, publish = rows }
end

function OPS.add_dead_letter()
  return add_letter(R.reason, R.message, R.service)
end

function OPS.list_dead_letters()
  local ids, packed = call('ZRANGE', P .. 'letters:time', 0, -1), {}
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    extend(packed, call('HMGET', P .. 'letters', unpack(ids, first, last)))
  end
  return nil, packed
end

local function delete_letter(id)
  call('ZREM', P .. 'letters:time', id)
  return call('HDEL', P .. 'letters', id) == 1
end

function OPS.delete_dead_letter()
  return delete_letter(R)
end

function OPS.retry_dead_letter()
  local packed = call('HGET', P .. 'letters', R)
  if not packed then
    refuse('NotFoundError', 'dead letter ' .. R .. ' does not exist')
  end
  local letter = cmsgpack.unpack(packed)
  local t = letter.task_id and find(letter.task_id)
  if not t then
    refuse(
      'NotFoundError',
      'the task of dead letter ' .. R .. ' is gone: it cannot be retried'
    )
  elseif t.state ~= 'failed' then
    refuse('ConflictError', "task '" .. t.task_id .. "' is " .. shown(t) .. ', not failed')
  end
  delete_letter(R)
  t.crashes, t.errors = 0, 0
  t.parked_at, t.finished_at, t.event_count = nil, nil, nil
  call('HDEL', texts(t.task_id), 'result', 'data')
  touch(t.task_id)
  return line_up(t)
end
