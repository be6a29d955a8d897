local function run(keys, args)
  begin_call(keys, args)
  local operation = args[1]
  local done, result, items = pcall(OPS[operation])
  local problem
  if not done then
    if type(result) ~= 'table' or not result.kind then
      -- Redis's own refusals begin with a code (OOM, READONLY); what does not is a bug of ours.
      local text = type(result) == 'table' and result.err or tostring(result)
      if not string.match(text, '^%u+ ') then
        text = 'ERR ' .. operation .. ': ' .. text
      end
      return redis.error_reply(text)
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
end
