-- Sessions: `s:<id>` has the version of the user's state and when it was touched, `state:<id>` the
-- user's state (a key's JSON per field), `context:<id>` the contexts by service, `of:<id>` the
-- session's tasks by number; `sessions` has all ids by when `expire` looked at them last.

local function session(id)
  return P .. 's:' .. id
end

local function refuse_missing()
  refuse('NotFoundError', 'Session not found') -- the wire's own words
end

local function require_session(id)
  if call('EXISTS', session(id)) == 0 then
    refuse_missing()
  end
end

local function refuse_session(id)
  if call('EXISTS', session(id)) == 1 then
    refuse('ConflictError', "session '" .. id .. "' exists already")
  end
end

local function make_session(id)
  call('HSET', session(id), 'version', 0, 'touched_at', NOW)
  call('ZADD', P .. 'sessions', NOW_SCORE, id)
end

local function read_state(id)
  local version = call('HGET', session(id), 'version')
  if not version then
    refuse_missing()
  end
  return call('HGETALL', P .. 'state:' .. id), tonumber(version)
end

local function write_state(id, fields)
  if #fields > 0 then
    for first = 1, #fields, 1000 do
      call('HSET', P .. 'state:' .. id, unpack(fields, first, math.min(first + 999, #fields)))
    end
  end
  call('HINCRBY', session(id), 'version', 1)
  call('HSET', session(id), 'touched_at', NOW)
end

local function write_context(id, service, context)
  call('HSET', P .. 'context:' .. id, service, context)
end

local function describe(id)
  return {
    session_id = id,
    task_ids = call('ZRANGE', P .. 'of:' .. id, 0, -1),
    state = call('HGETALL', P .. 'state:' .. id),
  }
end

function OPS.create_session()
  refuse_session(R)
  make_session(R)
end

function OPS.get_session()
  if call('EXISTS', session(R)) == 1 then
    return describe(R)
  end
end

-- Sessions by a cursor of ZSCAN; one that stays is found, and may be found twice.
function OPS.list_sessions()
  local page = call('ZSCAN', P .. 'sessions', R.after, 'COUNT', R.limit)
  local found = {}
  for at = 1, #page[2], 2 do
    found[#found + 1] = describe(page[2][at])
  end
  return { found, page[1] }
end

function OPS.merge_session_state()
  require_session(R.session_id)
  write_state(R.session_id, R.fields)
end
