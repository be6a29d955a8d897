-- The registered services: a hash of their JSON by name.

function OPS.put_service()
  call('HSET', P .. 'services', R.name, R.definition)
end

function OPS.get_service()
  return value(call('HGET', P .. 'services', R))
end

function OPS.list_services()
  return call('HGETALL', P .. 'services')
end

function OPS.delete_service()
  call('HDEL', P .. 'services', R)
end

-- The version of the keys' layout, which is R.version where there was none.
function OPS.open()
  local version = tonumber(value(call('GET', P .. 'schema')))
  if not version then
    call('SET', P .. 'schema', R.version)
  end
  return version or R.version
end

function OPS.ping()
  return value(call('GET', P .. 'schema'))
end
