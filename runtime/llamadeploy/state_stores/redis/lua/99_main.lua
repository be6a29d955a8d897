local done, result, items = pcall(OPS[OPERATION])
local problem
if not done then
  if type(result) ~= 'table' or not result.kind then
    if type(result) == 'table' and result.err then
      return redis.error_reply(result.err)
    end
    return redis.error_reply('ERR ' .. OPERATION .. ': ' .. tostring(result))
  end
  problem, result, items = result.kind, result.message, nil
end
if #touched > 0 then
  call('PUBLISH', P .. 'changed', CALLER .. string.char(0x92) .. cmsgpack.pack(touched, ended))
end

items = items or {}
local count = #items
local list = string.char(
  0xdd, math.floor(count / 16777216), math.floor(count / 65536) % 256,
  math.floor(count / 256) % 256, count % 256
)
return string.char(0x96)
  .. cmsgpack.pack(problem, result, touched, ended, observed)
  .. list .. table.concat(items)
