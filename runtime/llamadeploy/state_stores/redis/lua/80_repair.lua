-- What the timer puts right; everything here is found by an index, none of it by a scan. What is
-- over ends first, so that no message goes out for it.

local function found(key, highest, limit)
  local tasks = {}
  for at, id in ipairs(due(key, highest, limit)) do
    tasks[at] = find(id)
  end
  return tasks
end

-- Lost leases: how many, and which tasks ended with it.
local function take_back(rows)
  local lost, dead = found(P .. 'timer:running', NOW_SCORE, R.limit), {}
  for _, t in ipairs(lost) do
    if out_of_retries(t) then
      dead[#dead + 1] = t.task_id
    end
    extend(rows, lose(t))
  end
  return #lost, dead
end

-- Parked tasks whose time is over: out of `wait_timeout`, or only of a waiter's own.
local function end_waits(rows, late)
  for _, t in ipairs(found(P .. 'timer:waiting', NOW_SCORE, R.limit)) do
    if t.wait_timeout and t.parked_at and t.parked_at + t.wait_timeout <= NOW then
      local message = 'nobody answered within ' .. string.format('%g', t.wait_timeout)
        .. ' s (wait-timeout)'
      local data = error_data('failed', 'WaitTimeout', message)
      extend(rows, finish_task(t, 'failed', message, data))
      late[#late + 1] = t.task_id
    else
      t.wait_expired = true
      rows[#rows + 1] = requeue(t)
    end
  end
end

-- Tasks that nobody started in time; only queued ones have a deadline.
local function end_queued(rows, late)
  local message = 'no worker started the task within its queue-timeout'
  local data = error_data('failed', 'QueueTimeout', message)
  local overdue = found(P .. 'deadline', NOW_SCORE, R.limit)
  extend(rows, finish_all(overdue, function(t)
    close(t, 'failed', message, data)
    late[#late + 1] = t.task_id
  end))
end

local function lease_due(rows)
  for _, row in ipairs(due(P .. 'outbox', NOW_SCORE, R.limit)) do
    local t = task_of_row(row)
    if t and t.row == tonumber(row) then
      call('ZADD', P .. 'outbox', score(NOW + R.outbox_lease), row)
      rows[#rows + 1] = outbox_row(t)
    else
      delete_row(row)
    end
  end
end

-- What waits for a worker since `before`, of all services or of those that R names.
local function unstarted_before(before)
  if not R.resend_services then
    return found(P .. 'timer:queued', score(before), R.limit)
  end
  local tasks = {}
  for _, service in ipairs(R.resend_services) do
    for _, t in ipairs(found(P .. 'ready:' .. service, NOW_SCORE, R.limit)) do
      if t.timer <= before then
        tasks[#tasks + 1] = t
      end
    end
  end
  return tasks
end

-- Publish again, under the same id, what a forgetful queue may have lost.
local function resend(rows, before)
  local unstarted = unstarted_before(before)
  extend(unstarted, found(P .. 'timer:routing', score(before), R.limit))
  for _, t in ipairs(unstarted) do
    t.timer = NOW
    if t.row and has_member(P .. 'outbox', t.row) then
      save(t)
    else
      insert_row(t, t.state == 'routing' and 'route' or 'run')
      save(t)
      rows[#rows + 1] = outbox_row(t)
    end
  end
end

local CLOCK_STEP = 60 -- seconds: rows are leased for less, and no task was handed out in the future

-- What would be due only when a clock that was set back is where it was, is due now. Leases of runs
-- follow the clock by their renewal.
local function follow_clock()
  local future = '(' .. score(NOW + CLOCK_STEP)
  for _, row in ipairs(call('ZRANGEBYSCORE', P .. 'outbox', future, '+inf')) do
    call('ZADD', P .. 'outbox', NOW_SCORE, row)
  end
  for _, state in ipairs({ 'queued', 'routing' }) do
    for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'timer:' .. state, future, '+inf')) do
      local t = find(id)
      t.timer = NOW
      save(t)
    end
  end
end

function OPS.repair()
  local rows, late = {}, {}
  follow_clock()
  local lost, dead = take_back(rows)
  end_waits(rows, late)
  end_queued(rows, late)
  lease_due(rows)
  if R.resend_unstarted_after then
    resend(rows, NOW - R.resend_unstarted_after)
  end
  return { publish = rows, lost_leases = lost, dead_lettered = dead, timed_out = late }
end

function OPS.next_due()
  local earliest
  local function consider(key, delay)
    local at = first_time(P .. key)
    if at and delay and (not earliest or at + delay < earliest) then
      earliest = at + delay
    end
  end
  consider('outbox', 0)
  consider('timer:running', 0)
  consider('timer:waiting', 0)
  consider('deadline', 0)
  consider('timer:queued', R)
  consider('timer:routing', R)
  return earliest
end
