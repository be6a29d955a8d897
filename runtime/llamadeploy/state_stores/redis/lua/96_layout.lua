-- The layout of the keys, `schema`, and the way from an older one.

-- Layout 1 had times in seconds as scores, all states in `counts`, and the tasks of outbox rows in
-- `outbox:tasks`. What was due stays due.
local function from_layout_1()
  for _, key in ipairs({ 'sessions', 'letters:time', 'tombstones' }) do
    local members = call('ZRANGE', P .. key, 0, -1, 'WITHSCORES')
    for at = 1, #members, 2 do
      call('ZADD', P .. key, score(tonumber(members[at + 1])), members[at])
    end
  end
  local rows, due_at = call('ZRANGE', P .. 'outbox', 0, -1, 'WITHSCORES'), {}
  for at = 1, #rows, 2 do
    due_at[tonumber(rows[at])] = tonumber(rows[at + 1])
  end
  for _, state in ipairs({ 'queued', 'running', 'waiting', 'routing', 'ended' }) do
    call('UNLINK', P .. 'timer:' .. state)
  end
  call('UNLINK', P .. 'deadline', P .. 'counts', P .. 'outbox', P .. 'outbox:tasks', P .. 'rows')
  local ids = call('ZRANGE', P .. 'tasks', 0, -1)
  for _, id in ipairs(ids) do
    local service = cmsgpack.unpack(call('GET', P .. 't:' .. id)).service
    call('UNLINK', P .. 'ready:' .. service, P .. 'load:' .. service)
  end
  for _, id in ipairs(ids) do
    local t = find(id)
    local at = t.row and due_at[t.row]
    t.row = at and t.number * ROWS
    t.row_kind = at and t.row_kind
    if at then
      call('ZADD', P .. 'outbox', score(at), t.row)
    end
    standing[id] = NOWHERE
    save(t)
    loaded[id], standing[id] = nil, nil -- they may be many
  end
end

-- The version of the keys' layout, which is R.version where there was none or an older one.
function OPS.open()
  local version = tonumber(value(call('GET', P .. 'schema')))
  if version and version >= R.version then
    return version
  end
  if version == 1 then
    from_layout_1()
  end
  call('SET', P .. 'schema', R.version)
  return R.version
end

function OPS.ping()
  return value(call('GET', P .. 'schema'))
end
