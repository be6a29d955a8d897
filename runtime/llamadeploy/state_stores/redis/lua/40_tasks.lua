-- Creating and reading tasks. `tasks` has all ids by number, in the order of creation.

local function refuse_known(t)
  local id = R.task_id
  if t and t.body_hash ~= R.body_hash then
    refuse(
      'ConflictError',
      "task '" .. id .. "' exists already with another body; use a new task_id"
    )
  elseif not t and is_buried(id) then
    refuse('ConflictError', "task '" .. id .. "' existed and was forgotten; use a new task_id")
  end
end

local function refuse_second()
  refuse(
    'SessionBusyError',
    "session '" .. R.session_id .. "' has an unfinished task of service '" .. R.service
      .. "', which takes one at a time (session policy 'reject'); wait for it or use another "
      .. 'session'
  )
end

local function new_task(detached)
  return {
    task_id = R.task_id,
    session_id = R.session_id,
    service = R.service,
    state = 'queued',
    attempt = 0,
    dispatch = 0,
    crashes = 0,
    errors = 0,
    body_hash = R.body_hash,
    max_retries = R.max_retries,
    retry_on_error = R.retry_on_error or nil,
    queue_deadline = R.queue_timeout and NOW + R.queue_timeout,
    wait_timeout = R.wait_timeout,
    orchestrated = R.orchestrated or nil,
    detached = detached or nil,
    parent = R.parent,
    ancestors = R.ancestors,
    created_at = NOW,
    number = call('INCR', P .. 'numbers'),
  }
end

function OPS.create_task()
  local id = R.task_id
  local known = find(id)
  refuse_known(known)
  if known then
    return { task_id = id, session_id = known.session_id, existed = true }
  end
  if R.new_session then
    refuse_session(R.session_id)
  else
    require_session(R.session_id)
  end
  local detached = R.detached_context or R.policy == 'parallel'
  local last
  if not detached then
    last = last_place(R.session_id, R.service)
    if last and R.policy == 'reject' then
      refuse_second()
    end
  end
  if R.new_session then
    make_session(R.session_id)
  end
  local t = new_task(detached)
  call('HSET', texts(id), 'input', R.input)
  call('ZADD', P .. 'tasks', t.number, id)
  call('ZADD', P .. 'of:' .. t.session_id, t.number, id)
  if t.parent then
    call('SADD', P .. 'calls:' .. t.parent, id)
  end
  if not detached then
    take_place(t, (last or 0) + 1)
  end
  touch(id)
  local created = { task_id = id, session_id = t.session_id }
  if last then
    save(t)
    return created
  end
  t.timer, t.dispatch = NOW, 1
  insert_row(t, 'run')
  save(t)
  created.publish = { outbox_row(t, R.input) }
  return created
end

-- `result` and `data` where they are known.
local function record(t, result, data)
  local shown_state = shown(t)
  local r = {
    task_id = t.task_id,
    session_id = t.session_id,
    service = t.service,
    state = shown_state,
    attempt = t.attempt,
    crashes = t.crashes,
    created_at = t.created_at,
    started_at = t.started_at,
    finished_at = t.finished_at,
    parent = t.parent,
    runs = t.attempt + (t.followers or 0),
  }
  if TERMINAL[t.state] then
    if not result then
      local found = call('HMGET', texts(t.task_id), 'result', 'data')
      result, data = found[1], value(found[2])
    end
    r.result, r.data = result, data
    r.event_count = t.event_count
  else
    r.event_count = math.max(t.base_index or 0, t.top or 0)
  end
  if t.state == 'running' then
    r.owner = t.worker_id
    r.resident = t.resident_attempt == t.attempt and t.resident or nil
  elseif t.state == 'waiting' then
    r.wait_deadline = t.timer
  end
  return r
end

function OPS.get_task()
  local t = find(R)
  return t and record(t)
end

function OPS.get_input()
  local t = find(R)
  return t and read_input(t)
end

local function definition(id)
  local t = find(id)
  return {
    task_id = id,
    session_id = t.session_id,
    service_id = t.service,
    input = call('HGET', texts(id), 'input'),
  }
end

-- Definitions with a number above R.after, of one session or of all, and where to go on (0: there
-- is nothing more).
function OPS.list_tasks()
  local from = P .. 'tasks'
  if R.session_id then
    require_session(R.session_id)
    from = P .. 'of:' .. R.session_id
  end
  local page = call('ZRANGEBYSCORE', from, '(' .. R.after, '+inf', 'LIMIT', 0, R.limit)
  local found = {}
  for _, id in ipairs(page) do
    found[#found + 1] = definition(id)
  end
  return { found, #page == R.limit and find(page[#page]).number or 0 }
end

local SCANNED = 1000 -- tasks that one step of a search looks at

local function wanted(t, query)
  if query.service and t.service ~= query.service then
    return false
  end
  if #query.states == 0 then
    return true
  end
  local state = shown(t)
  for _, one in ipairs(query.states) do
    if one == state then
      return true
    end
  end
  return false
end

-- The newest tasks below number R.below (or task R.query.before) that match, and where to go on
-- (0: there is nothing more).
function OPS.find_tasks()
  local query, below = R.query, R.below > 0 and R.below
  if not below and query.before then
    local t = find(query.before)
    if not t then
      return { {}, 0 }
    end
    below = t.number
  end
  local from = query.session_id and P .. 'of:' .. query.session_id or P .. 'tasks'
  local highest = below and '(' .. below or '+inf'
  local page = call('ZREVRANGEBYSCORE', from, highest, '-inf', 'LIMIT', 0, SCANNED)
  local found = {}
  for _, id in ipairs(page) do
    local t = find(id)
    if wanted(t, query) then
      found[#found + 1] = record(t)
      if #found == query.limit then
        return { found, 0 }
      end
    end
  end
  return { found, #page == SCANNED and find(page[#page]).number or 0 }
end

function OPS.service_load()
  local load = { running = {} }
  local counted = call('HGETALL', P .. 'load:' .. R)
  for at = 1, #counted, 2 do
    local field, number = counted[at], tonumber(counted[at + 1])
    if string.sub(field, 1, 7) == 'worker:' then
      load.running[#load.running + 1] = { string.sub(field, 8), number }
    else
      load[field] = number
    end
  end
  load.queued = call('ZCARD', P .. 'ready:' .. R)
  load.oldest_queued_at = first_time(P .. 'ready:' .. R)
  return load
end

-- Numbers by state (`blocked`: queued behind others of a session), and of outbox rows.
function OPS.counts()
  local counted = call('HGETALL', P .. 'counts')
  for _, state in ipairs({ 'queued', 'running' }) do
    extend(counted, { state, tostring(call('ZCARD', P .. 'timer:' .. state)) })
  end
  return { counted, call('ZCARD', P .. 'outbox') }
end
