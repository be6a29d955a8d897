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
