-- Whose turn it is, and the outbox row that tells a worker so. `outbox` has the rows by when they
-- are due; `row` and `row_kind` of a task name its last row, which `outbox_done` may have deleted.
-- A row's number has the task's in it, and how many rows the task had: a number comes again after
-- 4,096 rows of one task, and names the same task then.

local PUBLISH_LEASE = 5 -- seconds for which a new row belongs to whoever caused it
local INLINE_INPUT_LIMIT = 131072 -- bytes; see records.INLINE_INPUT_LIMIT

local function read_input(t)
  local found = call('HMGET', texts(t.task_id), 'stage_input', 'input')
  return found[1] or found[2]
end

local ROWS = 4096 -- numbers of rows per task

-- The task of a row, where both exist.
local function task_of_row(row)
  local number = math.floor(tonumber(row) / ROWS)
  local id = call('ZRANGEBYSCORE', P .. 'tasks', number, number)[1]
  return id and find(id)
end

local function delete_row(row)
  call('ZREM', P .. 'outbox', row)
end

-- The task's row, if any, is moot: it was started, routed or ended. The caller saves.
local function leave_outbox(t)
  if t.row then
    delete_row(t.row)
    t.row, t.row_kind = nil, nil
  end
end

-- The caller saves.
local function insert_row(t, kind)
  leave_outbox(t)
  t.rows = (t.rows or 0) % (ROWS - 1) + 1
  t.row, t.row_kind = t.number * ROWS + t.rows, kind
  call('ZADD', P .. 'outbox', score(NOW + PUBLISH_LEASE), t.row)
end

-- The task's row as the publisher gets it.
local function outbox_row(t, input)
  if t.row_kind == 'run' then
    input = input or read_input(t)
  end
  if not input or #input > INLINE_INPUT_LIMIT then
    input = cjson.null -- a nil of msgpack
  end
  return {
    row_id = t.row,
    message_id = t.task_id .. '/' .. t.dispatch,
    kind = t.row_kind,
    task_id = t.task_id,
    session_id = t.session_id,
    service = t.service,
    input = input,
    ancestors = t.ancestors,
  }
end

local function hand_out(t, state, kind)
  t.state, t.timer, t.dispatch = state, NOW, t.dispatch + 1
  insert_row(t, kind)
  touch(t.task_id)
  save(t)
  return outbox_row(t)
end

-- Make the task queued and hand it out anew: its turn came, or comes again.
local function requeue(t)
  t.execution_id, t.worker_id = nil, nil
  return hand_out(t, 'queued', 'run')
end

-- Ask the orchestrators what follows.
local function start_routing(t)
  return hand_out(t, 'routing', 'route')
end

-- Where a session's order of a service is: ids by place.
local function order(session_id, service)
  return P .. 'order:' .. #session_id .. ':' .. session_id .. ':' .. service
end

local function last_place(session_id, service)
  local last = call('ZREVRANGE', order(session_id, service), 0, 0, 'WITHSCORES')
  return tonumber(last[2])
end

-- The caller saves.
local function take_place(t, place)
  t.place = place
  call('ZADD', order(t.session_id, t.service), place, t.task_id)
end

-- The caller saves, and hands the place on with `advance`.
local function leave_place(t)
  if t.place then
    call('ZREM', order(t.session_id, t.service), t.task_id)
    t.place = nil
  end
end

-- Hand out the head of a session's order of a service, unless it has been already.
local function advance(session_id, service)
  local head = call('ZRANGE', order(session_id, service), 0, 0)[1]
  local t = head and find(head)
  if t and t.state == 'queued' and not t.timer then
    return { requeue(t) }
  end
  return {}
end

-- The end of the order: the task's turn if nobody is before it.
local function line_up(t)
  t.state, t.timer = 'queued', nil
  if t.detached then
    return { requeue(t) }
  end
  local last = last_place(t.session_id, t.service)
  take_place(t, (last or 0) + 1)
  if last then
    save(t)
    return {}
  end
  return { requeue(t) }
end

function OPS.outbox_done()
  for _, row in ipairs(R) do
    delete_row(row)
  end
end
