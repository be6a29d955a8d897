-- Attempts: start, leases, park, release, and what a lost one leads to.

local function out_of_retries(t)
  return t.crashes + t.errors >= t.max_retries
end

-- End a running task whose last permitted attempt was lost.
local function give_up_lost(t)
  t.crashes = t.crashes + 1
  return give_up(
    t,
    'WorkerLost',
    "worker '" .. t.worker_id .. "' was lost while it ran the task; given up after "
      .. t.crashes .. ' lost ' .. (t.crashes == 1 and 'attempt' or 'attempts')
  )
end

-- The running attempt's lease ran out: try again, or give the task up.
local function lose(t)
  if out_of_retries(t) then
    return give_up_lost(t)
  end
  t.crashes = t.crashes + 1
  observe('redelivered', t.service)
  return { requeue(t) }
end

local function begin(t)
  observe('started', t.service, t.task_id, t.attempt == 0 and NOW - t.created_at or nil)
  leave_outbox(t)
  forget_run(t)
  t.attempt = t.attempt + 1
  if t.base_index and t.base_index > 0 then
    t.bases = t.bases or {}
    t.bases[#t.bases + 1] = { t.attempt, t.base_index }
  end
  t.state, t.timer, t.queue_deadline = 'running', NOW + R.lease, nil
  t.execution_id, t.worker_id = R.execution_id, R.worker_id
  t.started_at = t.started_at or NOW
  touch(t.task_id)
  save(t)
end

-- `afresh`: from the very beginning, whatever was parked since.
local function execution(t, afresh)
  local id = t.task_id
  local found = call('HMGET', texts(id), 'stage_input', 'input', 'snapshot')
  local snapshot, context = not afresh and value(found[3]) or nil, nil
  if not snapshot then
    context = value(call('HGET', P .. 'context:' .. t.session_id, t.service))
  end
  local consumed = not afresh and t.consumed_seq or 0
  return {
    type = 'execution',
    task_id = id,
    session_id = t.session_id,
    service = t.service,
    attempt = t.attempt,
    input = found[1] or found[2],
    context = context,
    snapshot = snapshot,
    base_index = not afresh and t.base_index or 0,
    inbound = (t.inbound_seq or 0) > consumed and inbound_after(id, consumed) or {},
    consumed_seq = consumed,
    parked_code_version = t.parked_code_version or '',
    wait_expired = not afresh and t.wait_expired or false,
    run_seconds = not afresh and t.run_seconds or 0,
    alone = t.crashes > 0 and t.crashes + t.errors >= t.max_retries,
    keep_context = not t.detached,
    wait_timeout = t.wait_timeout,
    ancestors = t.ancestors,
  }
end

local function dropped(reason)
  return { type = 'dropped', reason = reason }
end

-- States in which a first run was begun, and is not to be stopped.
local BEGUN = { running = true, waiting = true, succeeded = true, failed = true }

-- A run beside the one that leads, or that led; else it is dropped.
local function follow(t, reason)
  local number, running = R.follow or 0, t.state == 'running'
  local present = running and number == t.dispatch
  local afresh = number == 1 and (t.stage or 0) == 0 and BEGUN[t.state]
  if running and t.worker_id == R.worker_id or not (present or afresh) then
    return dropped(reason)
  end
  t.followers = (t.followers or 0) + 1
  save(t)
  local found = execution(t, not present)
  found.leading, found.alone = false, false
  return found
end

function OPS.start()
  local t = find(R.task_id)
  if not t then
    return dropped(is_buried(R.task_id) and 'terminal' or 'unknown')
  elseif TERMINAL[t.state] then
    return follow(t, 'terminal')
  elseif t.state == 'running' then
    if t.execution_id == R.execution_id then
      t.timer = NOW + R.lease
      save(t)
      return execution(t)
    elseif t.timer > NOW then
      return follow(t, 'leased')
    elseif out_of_retries(t) then
      give_up_lost(t)
      return dropped('terminal')
    end
    t.crashes = t.crashes + 1
    observe('redelivered', t.service)
  elseif t.state ~= 'queued' or not t.timer then
    return follow(t, 'not_due')
  end
  begin(t)
  return execution(t)
end

function OPS.renew()
  local answers = {}
  for at, key in ipairs(R.keys) do
    local t = find(key.task_id)
    local alive = current(t, key.attempt) and t.worker_id == R.worker_id
    local answer = { key = key, alive = alive }
    if alive then
      t.timer = NOW + R.lease
      if R.custody then
        t.custody_attempt = t.attempt
      end
      save(t)
    end
    if t then
      answer.inbound_seq = t.inbound_seq or 0
      answer.cancelled = t.state == 'cancelled'
      answer.live = t.state == 'queued' or t.state == 'running'
    end
    answers[at] = answer
  end
  return answers
end

-- When a wait ends by itself. An answer ends a wait: the next question gets the whole time again.
local function wait_limit(t)
  if not t.parked_at or R.consumed_seq > (t.consumed_seq or 0) then
    t.parked_at = NOW
  end
  local limit = t.wait_timeout and t.parked_at + t.wait_timeout
  if limit and R.deadline then
    return math.min(limit, R.deadline)
  end
  return limit or R.deadline
end

function OPS.park()
  local t = find(R.key.task_id)
  if not current(t, R.key.attempt) then
    -- The answer to this very park got lost: what it led to is in the store.
    local last = t and t.attempt == R.key.attempt and t.parked_attempt == t.attempt
    return { accepted = last and (t.state == 'queued' or t.state == 'waiting') or false }
  end
  write_events(t, R.events)
  call('HSET', texts(t.task_id), 'snapshot', R.snapshot)
  t.timer = wait_limit(t)
  t.state, t.consumed_seq, t.base_index = 'waiting', R.consumed_seq, R.next_index
  t.parked_attempt, t.parked_code_version = t.attempt, R.code_version
  t.wait_expired, t.run_seconds = nil, R.run_seconds
  t.execution_id, t.worker_id = nil, nil
  touch(t.task_id)
  observe('ran', t.service, t.task_id)
  if (t.inbound_seq or 0) > R.consumed_seq then
    return { accepted = true, publish = { requeue(t) } }
  end
  save(t)
  return { accepted = true }
end

function OPS.release()
  local t = find(R.task_id)
  if not current(t, R.attempt) then
    return REJECTED
  end
  return { accepted = true, publish = { requeue(t) } }
end

function OPS.note_resident()
  local t = find(R.key.task_id)
  if not current(t, R.key.attempt) then
    return false
  end
  t.resident, t.resident_attempt = R.reason, t.attempt
  save(t)
  return true
end

function OPS.expire_worker()
  local expired = 0
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'timer:running', '(' .. NOW_SCORE, '+inf')) do
    local t = find(id)
    if t.worker_id == R then
      t.timer = NOW
      save(t)
      expired = expired + 1
    end
  end
  return expired
end
