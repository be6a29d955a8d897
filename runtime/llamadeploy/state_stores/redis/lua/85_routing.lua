-- Between two services of a custom orchestrator.

function OPS.routing_stage()
  local t = find(R)
  if not t or t.state ~= 'routing' then
    return nil
  end
  local texts_found = call('HMGET', texts(R), 'input', 'result', 'data')
  local state, version = read_state(t.session_id)
  return {
    task_id = R,
    session_id = t.session_id,
    service = t.service,
    input = texts_found[1],
    stage = t.stage,
    result = texts_found[2],
    data = value(texts_found[3]),
    state = state,
    version = version,
  }
end

-- The next service's turn: a fresh run, at the end of the session's order of that service.
local function continue(t)
  leave_outbox(t)
  local key = texts(t.task_id)
  if R.next_input then
    call('HSET', key, 'stage_input', R.next_input)
  end
  call('HDEL', key, 'result', 'data')
  t.service, t.crashes, t.errors = R.next_service, 0, 0
  t.parked_attempt, t.parked_at, t.parked_code_version = nil, nil, nil
  t.wait_expired, t.run_seconds = nil, nil
  touch(t.task_id)
  return line_up(t)
end

function OPS.commit_route()
  local t = find(R.task_id)
  if not t or t.state ~= 'routing' or t.stage ~= R.stage then
    return REJECTED
  end
  local _, version = read_state(t.session_id)
  if version ~= R.version then
    return REJECTED
  end
  call('DEL', P .. 'state:' .. t.session_id)
  write_state(t.session_id, R.state)
  if R.next_service then
    return { accepted = true, publish = continue(t) }
  end
  local result = R.final_result or call('HGET', texts(t.task_id), 'result')
  return { accepted = true, publish = finish_task(t, R.final_state, result, R.final_data) }
end
