-- What the operations share. Every operation that changes a task holds the lock of its session
-- (advisory, until the end of the transaction), so that a read under the lock stays true and no rows
-- need locks of their own. Who needs several sessions takes them in the order of their keys, or
-- skips those that are taken.

CREATE OR REPLACE FUNCTION present(clock float8) RETURNS float8 LANGUAGE sql AS
$$ SELECT COALESCE(clock, extract(epoch FROM clock_timestamp())::float8) $$;

CREATE OR REPLACE FUNCTION session_key(ns text, session text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtextextended(ns || E'\x01' || session, 5) $$;

CREATE OR REPLACE FUNCTION tombstone(ns text, task text) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || substr(md5(ns || E'\x01' || task), 1, 16))::bit(64)::bigint $$;

CREATE OR REPLACE FUNCTION is_buried(ns text, task text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN EXISTS (SELECT 1 FROM tombstones WHERE hash = tombstone(ns, task));
END $$;

CREATE OR REPLACE FUNCTION is_terminal(state text) RETURNS boolean LANGUAGE sql IMMUTABLE AS
$$ SELECT state IN ('succeeded', 'failed', 'cancelled') $$;

CREATE OR REPLACE FUNCTION shown_state(state text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN state = 'routing' THEN 'running' ELSE state END $$;

-- The task, under the lock of its session; a row of nulls where there is none.
CREATE OR REPLACE FUNCTION locked_task(ns text, wanted text) RETURNS tasks LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  PERFORM pg_advisory_xact_lock(session_key(ns, session_id))
    FROM tasks WHERE namespace || '' = ns AND task_id = wanted;
  IF FOUND THEN
    SELECT * INTO t FROM tasks WHERE namespace || '' = ns AND task_id = wanted;
  END IF;
  RETURN t;
END $$;

CREATE OR REPLACE FUNCTION existing_task(ns text, wanted text) RETURNS tasks LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  t := locked_task(ns, wanted);
  IF t.id IS NULL THEN
    RAISE EXCEPTION 'task ''%'' does not exist (or has expired)', wanted USING ERRCODE = 'LD404';
  END IF;
  RETURN t;
END $$;

CREATE OR REPLACE FUNCTION nothing() RETURNS effects LANGUAGE sql IMMUTABLE AS
$$ SELECT ROW('{}'::json[], '{}'::text[], '{}'::json[], '{}'::json[])::effects $$;

CREATE OR REPLACE FUNCTION touch(e effects, task text) RETURNS effects LANGUAGE plpgsql AS $$
BEGIN
  e.touched := array_append(e.touched, task);
  RETURN e;
END $$;

CREATE OR REPLACE FUNCTION observe(e effects, what json) RETURNS effects LANGUAGE plpgsql AS $$
BEGIN
  e.observed := array_append(e.observed, what);
  RETURN e;
END $$;

CREATE OR REPLACE FUNCTION reply(value json, e effects) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  RETURN json_build_object('value', value, 'publish', e.publish, 'touched', e.touched,
    'ended', e.ended, 'observed', e.observed);
END $$;

-- Insert (or renew) the outbox row of a task and say what to publish. For 5 seconds the row belongs
-- to whoever caused it; later any repair publishes it. 131072: INLINE_INPUT_LIMIT.
CREATE OR REPLACE FUNCTION publish(t tasks, row_kind text, now float8, e effects) RETURNS effects
LANGUAGE plpgsql AS $$
DECLARE number bigint;
BEGIN
  INSERT INTO outbox (namespace, task, kind, due) VALUES (t.namespace, t.id, row_kind, now + 5)
    ON CONFLICT (task) DO UPDATE SET row_id = EXCLUDED.row_id, kind = EXCLUDED.kind,
      due = EXCLUDED.due
    RETURNING row_id INTO number;
  e.publish := array_append(e.publish, outbox_row(t, number, row_kind));
  RETURN e;
END $$;

CREATE OR REPLACE FUNCTION outbox_row(t tasks, number bigint, row_kind text) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE text_ text;
BEGIN
  IF row_kind = 'run' THEN
    SELECT COALESCE(stage_input, input) INTO text_ FROM inputs WHERE task = t.id;
  END IF;
  RETURN outbox_message(t, number, row_kind, text_);
END $$;

CREATE OR REPLACE FUNCTION outbox_message(t tasks, number bigint, row_kind text, text_ text)
RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  IF octet_length(text_) > 131072 THEN text_ := NULL; END IF;
  RETURN json_build_object('row_id', number, 'message_id', t.task_id || '/' || t.dispatch,
    'kind', row_kind, 'task_id', t.task_id, 'session_id', t.session_id, 'service', t.service,
    'input', text_, 'ancestors', t.ancestors);
END $$;

-- Make the task queued and hand it out anew: its turn came, or comes again.
CREATE OR REPLACE FUNCTION requeue(number bigint, now float8, e effects) RETURNS effects
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  UPDATE tasks SET state = 'queued', timer = now, dispatch = dispatch + 1, execution_id = NULL,
    worker_id = NULL WHERE id = number RETURNING * INTO t;
  RETURN publish(t, 'run', now, touch(e, t.task_id));
END $$;

-- The last place taken in a session's order of a service; null: it is free.
CREATE OR REPLACE FUNCTION last_place(ns text, session text, service_ text) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT max(place) FROM tasks WHERE namespace || '' = ns AND session_id = session
    AND service = service_ AND place IS NOT NULL);
END $$;

-- Hand out the head of a session's order of a service, unless it has been already.
CREATE OR REPLACE FUNCTION advance(ns text, session text, service_ text, now float8, e effects)
RETURNS effects LANGUAGE plpgsql AS $$
DECLARE head record;
BEGIN
  SELECT id, state, timer INTO head FROM tasks WHERE namespace || '' = ns AND session_id = session
    AND service = service_ AND place IS NOT NULL ORDER BY place LIMIT 1;
  IF FOUND AND head.state = 'queued' AND head.timer IS NULL THEN
    e := requeue(head.id, now, e);
  END IF;
  RETURN e;
END $$;

-- Append to the log as the task's present attempt; indices that are there already are skipped.
CREATE OR REPLACE FUNCTION write_events(t tasks, events_ jsonb, e effects) RETURNS effects
LANGUAGE plpgsql AS $$
BEGIN
  IF events_ IS NULL OR jsonb_array_length(events_) = 0 THEN RETURN e; END IF;
  INSERT INTO events (task, seq, attempt, idx, type, data)
    SELECT t.id, (SELECT COALESCE(max(seq), 0) FROM events WHERE task = t.id) + n, t.attempt, (x->>'index')::bigint, x->>'type', x->>'data'
    FROM jsonb_array_elements(events_) WITH ORDINALITY AS list (x, n)
    ON CONFLICT DO NOTHING;
  RETURN touch(e, t.task_id);
END $$;

-- How many indices the stream has with the task's present attempt.
CREATE OR REPLACE FUNCTION event_count(t tasks) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN GREATEST(t.base_index,
    (SELECT max(idx) + 1 FROM events WHERE task = t.id AND attempt = t.attempt));
END $$;

CREATE OR REPLACE FUNCTION error_data(state text, kind text, message text) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
  SELECT jsonb_build_object('state', state, 'error',
    jsonb_build_object('type', kind, 'message', message, 'traceback', ''))
$$;

-- Write the result of an unfinished task and free its place. Where `t.place` was set to null by the
-- caller, the caller hands the place on.
CREATE OR REPLACE FUNCTION end_task(t tasks, ending text, result_ text, data_ jsonb,
  keep_snapshot boolean, now float8, e effects) RETURNS effects LANGUAGE plpgsql AS $$
DECLARE ended tasks;
BEGIN
  -- The subquery is event_count(t), without a call.
  UPDATE tasks SET state = ending, timer = now, finished_at = now, place = NULL,
    queue_deadline = NULL, event_count = GREATEST(t.base_index,
      (SELECT max(idx) + 1 FROM events v WHERE v.task = t.id AND v.attempt = t.attempt)),
    result = result_,
    data = NULLIF(data_, '{}') WHERE id = t.id RETURNING * INTO ended;
  e.ended := array_append(e.ended, json_build_array(t.task_id, task_record(ended)));
  IF t.state <> 'running' THEN DELETE FROM outbox WHERE task = t.id; END IF;
  IF t.parked_attempt > 0 AND NOT keep_snapshot THEN
    DELETE FROM snapshots WHERE task = t.id;
  END IF;
  e := touch(observe(e, json_build_array('ended', t.service, t.task_id, ending)), t.task_id);
  IF t.place IS NOT NULL THEN
    e := advance(t.namespace, t.session_id, t.service, now, e);
  END IF;
  RETURN e;
END $$;

-- A service delivered: end the task, or ask the orchestrators what follows.
CREATE OR REPLACE FUNCTION deliver(t tasks, ending text, result_ text, data_ jsonb, now float8,
  e effects) RETURNS effects LANGUAGE plpgsql AS $$
DECLARE routed tasks;
BEGIN
  IF NOT t.orchestrated THEN
    RETURN end_task(t, ending, result_, data_, false, now, e);
  END IF;
  UPDATE tasks SET state = 'routing', timer = now, dispatch = dispatch + 1, place = NULL,
    queue_deadline = NULL, stage = stage + 1, result = result_, data = NULLIF(data_, '{}'),
    base_index = event_count(t), consumed_seq = inbound_seq, execution_id = NULL,
    worker_id = NULL WHERE id = t.id RETURNING * INTO routed;
  DELETE FROM snapshots WHERE task = t.id;
  e := publish(routed, 'route', now, touch(e, t.task_id));
  IF t.place IS NOT NULL THEN
    e := advance(t.namespace, t.session_id, t.service, now, e);
  END IF;
  RETURN e;
END $$;

CREATE OR REPLACE FUNCTION bury(ns text, task text, now float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tombstones (hash, expires_at) VALUES (tombstone(ns, task), now + 7 * 86400)
    ON CONFLICT (hash) DO UPDATE SET expires_at = EXCLUDED.expires_at;
END $$;

-- Delete a task with all that hangs off it.
CREATE OR REPLACE FUNCTION forget(ns text, number bigint, task_ text, now float8, e effects)
RETURNS effects LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM inputs WHERE task = number;
  DELETE FROM events WHERE task = number;
  DELETE FROM inbound WHERE task = number;
  DELETE FROM snapshots WHERE task = number;
  DELETE FROM outbox WHERE task = number;
  DELETE FROM tasks WHERE id = number;
  PERFORM bury(ns, task_, now);
  e.ended := array_append(e.ended, json_build_array(task_, NULL));
  RETURN touch(e, task_);
END $$;

-- End a task as failed and put it among the dead letters; a retry resumes its snapshot.
CREATE OR REPLACE FUNCTION give_up(t tasks, kind text, message_ text, now float8, e effects)
RETURNS effects LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dead_letters (namespace, created_at, reason, service, task_id)
    VALUES (t.namespace, now, message_, t.service, t.task_id);
  e := observe(e, json_build_array('dead_letter', t.service));
  RETURN end_task(t, 'failed', message_, error_data('failed', kind, message_), true, now, e);
END $$;

-- The same for a running task whose last permitted attempt was lost.
CREATE OR REPLACE FUNCTION give_up_lost(t tasks, now float8, e effects) RETURNS effects
LANGUAGE plpgsql AS $$
DECLARE message_ text;
BEGIN
  UPDATE tasks SET crashes = crashes + 1 WHERE id = t.id;
  message_ := 'worker ''' || COALESCE(t.worker_id, '') || ''' was lost while it ran the task; '
    || 'given up after ' || (t.crashes + 1) || ' lost '
    || CASE WHEN t.crashes = 0 THEN 'attempt' ELSE 'attempts' END;
  RETURN give_up(t, 'WorkerLost', message_, now, e);
END $$;

-- The unfinished tasks at and below the given one, or below those of a session; under the locks of
-- all their sessions. Raises a serialisation failure (the caller repeats the whole operation) where
-- the tree grew into another session meanwhile.
CREATE OR REPLACE FUNCTION locked_tree(ns text, root text, session text) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
  keys bigint[];
  found_ bigint[];
  again bigint[];
  key bigint;
BEGIN
  keys := live_tree_keys(ns, root, session);
  FOREACH key IN ARRAY keys LOOP
    PERFORM pg_advisory_xact_lock(key);
  END LOOP;
  again := live_tree_keys(ns, root, session);
  IF NOT again <@ keys THEN
    RAISE EXCEPTION 'the calls of a task changed' USING ERRCODE = '40001';
  END IF;
  WITH RECURSIVE tree AS (
    SELECT id, task_id FROM tasks
      WHERE namespace || '' = ns AND (task_id = root OR session_id = session)
      AND state IN ('queued', 'running', 'waiting', 'routing')
    UNION
    SELECT c.id, c.task_id FROM tree JOIN tasks c ON c.namespace = ns AND c.parent = tree.task_id
      AND c.state IN ('queued', 'running', 'waiting', 'routing')
  )
  SELECT COALESCE(array_agg(id ORDER BY id), '{}') INTO found_ FROM tree;
  RETURN found_;
END $$;

CREATE OR REPLACE FUNCTION live_tree_keys(ns text, root text, session text) RETURNS bigint[]
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (
    WITH RECURSIVE tree AS (
      SELECT task_id, session_id FROM tasks
        WHERE namespace || '' = ns AND (task_id = root OR session_id = session)
        AND state IN ('queued', 'running', 'waiting', 'routing')
      UNION
      SELECT c.task_id, c.session_id FROM tree JOIN tasks c
        ON c.namespace = ns AND c.parent = tree.task_id
        AND c.state IN ('queued', 'running', 'waiting', 'routing')
    ),
    found_ AS (
      SELECT session_id FROM tree UNION SELECT session WHERE session IS NOT NULL
    )
    SELECT COALESCE(array_agg(DISTINCT session_key(ns, session_id)), '{}') FROM found_
  );
END $$;

-- End the tasks of a locked tree. All of them end before a place is handed on, so that none of them
-- is handed out meanwhile.
CREATE OR REPLACE FUNCTION cancel_tree(tree bigint[], reason text, now float8, INOUT e effects,
  OUT nudge json) LANGUAGE plpgsql AS $$
DECLARE
  ended tasks[];
  t tasks;
  p record;
BEGIN
  SELECT COALESCE(array_agg(x ORDER BY x.id), '{}'),
    COALESCE(json_agg(json_build_array(x.task_id, x.worker_id) ORDER BY x.id)
      FILTER (WHERE x.state = 'running' AND x.worker_id IS NOT NULL), '[]')
    INTO ended, nudge FROM tasks x WHERE x.id = ANY (tree);
  FOREACH t IN ARRAY ended LOOP
    t.place := NULL;
    e := end_task(t, 'cancelled', reason, error_data('cancelled', 'Cancelled', reason), false, now,
      e);
  END LOOP;
  FOR p IN SELECT DISTINCT x.namespace, x.session_id, x.service FROM unnest(ended) x
    WHERE x.place IS NOT NULL ORDER BY 2, 3
  LOOP
    e := advance(p.namespace, p.session_id, p.service, now, e);
  END LOOP;
END $$;
