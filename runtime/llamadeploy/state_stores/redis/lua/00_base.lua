-- What every operation stands on. The files of this folder, in the order of their names, are one
-- library; Redis runs each call of it as one step, so nothing interleaves. What it wrote is not
-- taken back: an operation checks everything that it may refuse before its first write.
--
-- KEYS[1]  prefix of every key, with the deployment's namespace as hash tag
-- ARGV     operation; its arguments (msgpack); who calls; the time, or '' for the server's
-- returns  msgpack [error or nil, value or message, ids of changed tasks, pairs of id and record
--          (false: read it) of those that ended, observations, items] where items are msgpack
--          already (the second value that the operation returned)

-- Of the present call.
local call, P, R, NOW, NOW_SCORE, CALLER
local touched, is_touched, ended, observed
local loaded, standing -- tasks that were read, and where the indices have them

local function begin_call(keys, args)
  call = redis.call
  P, CALLER = keys[1], args[3]
  R = cmsgpack.unpack(args[2])
  NOW = tonumber(args[4])
  if not NOW then
    local time = call('TIME')
    NOW = tonumber(time[1]) + tonumber(time[2]) / 1000000
  end
  NOW_SCORE = string.format('%.0f', NOW * 1000000)
  touched, is_touched, ended, observed = {}, {}, {}, {}
  loaded, standing = {}, {}
end

local OPS = {}

local TERMINAL = { succeeded = true, failed = true, cancelled = true }

-- The operation ends with an error of this name of llamadeploy.exceptions.
local function refuse(kind, message)
  error({ kind = kind, message = message })
end

-- The task changed: its followers are woken in the end.
local function touch(id)
  if not is_touched[id] then
    is_touched[id] = true
    touched[#touched + 1] = id
  end
end

local function observe(...)
  observed[#observed + 1] = { ... }
end

local function extend(list, more)
  for _, item in ipairs(more) do
    list[#list + 1] = item
  end
  return list
end

-- A command about any number of members of a key, or (without `key`) of keys.
local function call_for_all(command, key, list)
  for first = 1, #list, 1000 do
    local last = math.min(first + 999, #list)
    if key then
      call(command, key, unpack(list, first, last))
    else
      call(command, unpack(list, first, last))
    end
  end
end

-- nil where Redis has nothing.
local function value(reply)
  if reply == false then
    return nil
  end
  return reply
end

-- A time, in seconds, as the score of an index: whole microseconds, which Redis keeps and compares
-- as integers; fractions it would print and parse for each comparison in a short index.
local function score(time)
  return time == NOW and NOW_SCORE or string.format('%.0f', time * 1000000)
end

local function has_member(key, member)
  return value(call('ZSCORE', key, member)) ~= nil
end

-- The time of the first member.
local function first_time(key)
  local first = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  return first and first / 1000000
end

-- Members up to a score, the lowest first.
local function due(key, highest, limit)
  return call('ZRANGEBYSCORE', key, '-inf', highest, 'LIMIT', 0, limit)
end
