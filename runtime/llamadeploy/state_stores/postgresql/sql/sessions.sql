-- Sessions, routing, services, dead letters. See StateStore in state_stores/base.py.

CREATE OR REPLACE FUNCTION create_session(ns text, session text, now float8) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO sessions (namespace, session_id, touched_at, checked_at)
    VALUES (ns, session, now, now) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN PERFORM refuse_session(session); END IF;
END $$;

CREATE OR REPLACE FUNCTION refuse_session(session text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'session ''%'' exists already', session USING ERRCODE = 'LD409';
END $$;

CREATE OR REPLACE FUNCTION require_session(ns text, session text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM sessions WHERE namespace || '' = ns AND session_id = session;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'Session not found' USING ERRCODE = 'LD404';  -- the wire's own words
  END IF;
END $$;

CREATE OR REPLACE FUNCTION op_create_session(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM create_session(ns, r->>'session_id', present(clock));
  RETURN reply('null', nothing());
END $$;

CREATE OR REPLACE FUNCTION session_definition(s sessions) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  RETURN json_build_object('session_id', s.session_id, 'state', s.state, 'task_ids',
    ARRAY(SELECT task_id FROM tasks WHERE namespace || '' = s.namespace
      AND session_id = s.session_id ORDER BY id));
END $$;

CREATE OR REPLACE FUNCTION op_get_session(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE s sessions;
BEGIN
  SELECT * INTO s FROM sessions WHERE namespace || '' = ns AND session_id = r->>'session_id';
  IF NOT FOUND THEN RETURN 'null'; END IF;
  RETURN session_definition(s);
END $$;

CREATE OR REPLACE FUNCTION op_list_sessions(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT COALESCE(json_agg(session_definition(s) ORDER BY s.session_id), '[]') FROM
    (SELECT session_id FROM sessions WHERE namespace || '' = ns AND session_id > r->>'after'
      ORDER BY session_id LIMIT (r->>'limit')::bigint) p
    JOIN sessions s ON s.namespace || '' = ns AND s.session_id = p.session_id);
END $$;

CREATE OR REPLACE FUNCTION op_merge_session_state(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE sessions SET state = state || (r->'patch'), version = version + 1,
    touched_at = present(clock) WHERE namespace || '' = ns AND session_id = r->>'session_id';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'Session not found' USING ERRCODE = 'LD404';
  END IF;
  RETURN reply('null', nothing());
END $$;

CREATE OR REPLACE FUNCTION op_delete_session(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  session text := r->>'session_id';
  tree bigint[];
  e effects;
  now float8;
  c record;
  t record;
BEGIN
  tree := locked_tree(ns, NULL, session);
  now := present(clock);
  DELETE FROM sessions WHERE namespace || '' = ns AND session_id = session;
  IF NOT FOUND THEN RETURN reply('null', nothing()); END IF;
  SELECT * INTO c FROM cancel_tree(tree, 'its session was deleted', now, nothing());
  e := c.e;
  FOR t IN SELECT id, task_id FROM tasks WHERE namespace || '' = ns AND session_id = session LOOP
    e := forget(ns, t.id, t.task_id, now, e);
  END LOOP;
  DELETE FROM contexts WHERE namespace = ns AND session_id = session;
  RETURN reply(json_build_object('state', 'cancelled', 'changed', cardinality(tree) > 0,
    'nudge', c.nudge), e);
END $$;

-- Sessions without unfinished tasks; the value has the others. All at once, because it is what
-- follows each task that ran in a session of its own.
CREATE OR REPLACE FUNCTION op_forget_sessions(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  wanted text[] := ARRAY(SELECT jsonb_array_elements_text(r->'session_ids'));
  busy text[];
  numbers bigint[];
  ids text[];
  key bigint;
  e effects := nothing();
BEGIN
  -- Where a crash of the server takes this back, their retention ends them.
  PERFORM set_config('synchronous_commit', 'off', true);
  FOR key IN SELECT DISTINCT session_key(ns, s) FROM unnest(wanted) s ORDER BY 1 LOOP
    PERFORM pg_advisory_xact_lock(key);
  END LOOP;
  SELECT COALESCE(array_agg(DISTINCT session_id) FILTER (WHERE NOT is_terminal(state)), '{}')
    INTO busy FROM tasks WHERE namespace || '' = ns AND session_id = ANY (wanted);
  DELETE FROM sessions WHERE namespace || '' = ns AND session_id = ANY (wanted)
    AND session_id <> ALL (busy);
  DELETE FROM contexts WHERE namespace = ns AND session_id = ANY (wanted)
    AND session_id <> ALL (busy);
  WITH gone AS (
    DELETE FROM tasks WHERE namespace || '' = ns AND session_id = ANY (wanted)
      AND session_id <> ALL (busy) RETURNING id, task_id
  )
  SELECT array_agg(id), array_agg(task_id) INTO numbers, ids FROM gone;
  IF numbers IS NULL THEN RETURN reply(to_json(busy), e); END IF;
  DELETE FROM inputs WHERE task = ANY (numbers);
  DELETE FROM events WHERE task = ANY (numbers);
  DELETE FROM inbound WHERE task = ANY (numbers);
  DELETE FROM snapshots WHERE task = ANY (numbers);
  DELETE FROM outbox WHERE task = ANY (numbers);
  INSERT INTO tombstones (hash, expires_at)
    SELECT DISTINCT tombstone(ns, id), present(clock) + 7 * 86400 FROM unnest(ids) id
    ON CONFLICT (hash) DO UPDATE SET expires_at = EXCLUDED.expires_at;
  e.touched := ids;
  e.ended := ARRAY(SELECT json_build_array(id, NULL) FROM unnest(ids) id);
  RETURN reply(to_json(busy), e);
END $$;

CREATE OR REPLACE FUNCTION op_routing_stage(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN COALESCE((SELECT json_build_object('task_id', t.task_id, 'session_id', t.session_id,
    'service', t.service, 'input', i.input, 'stage', t.stage, 'result', t.result,
    'data', COALESCE(t.data, '{}'), 'state', s.state, 'version', s.version)
    FROM tasks t JOIN inputs i ON i.task = t.id
      JOIN sessions s ON s.namespace || '' = t.namespace AND s.session_id = t.session_id
    WHERE t.namespace || '' = ns AND t.task_id = r->>'task_id' AND t.state = 'routing'), 'null');
END $$;

CREATE OR REPLACE FUNCTION op_commit_route(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  e effects := nothing();
  now float8;
  last bigint;
  following text := r->>'next_service';
BEGIN
  t := locked_task(ns, r->>'task_id');
  now := present(clock);
  IF t.id IS NULL OR t.state <> 'routing' OR t.stage <> (r->'stage')::integer THEN
    RETURN reply('false', e);
  END IF;
  UPDATE sessions SET state = r->'state', version = version + 1, touched_at = now
    WHERE namespace || '' = ns AND session_id = t.session_id AND version = (r->'version')::bigint;
  IF NOT FOUND THEN RETURN reply('false', e); END IF;
  IF following IS NULL THEN
    RETURN reply('true', end_task(t, r->>'final_state', COALESCE(r->>'final_result', t.result),
      r->'final_data', false, now, e));
  END IF;
  -- A fresh run, at the end of the session's order of the next service.
  IF NOT t.detached THEN last := last_place(ns, t.session_id, following); END IF;
  DELETE FROM outbox WHERE task = t.id;
  IF r->>'next_input' IS NOT NULL THEN
    UPDATE inputs SET stage_input = r->>'next_input' WHERE task = t.id;
  END IF;
  UPDATE tasks SET state = 'queued', timer = NULL, service = following,
    place = CASE WHEN NOT t.detached THEN COALESCE(last, 0) + 1 END, crashes = 0, errors = 0,
    parked_attempt = 0, parked_at = NULL, parked_code_version = '', wait_expired = false,
    run_seconds = 0, result = NULL, data = NULL WHERE id = t.id;
  e := touch(e, t.task_id);
  IF last IS NULL THEN e := requeue(t.id, now, e); END IF;
  RETURN reply('true', e);
END $$;

CREATE OR REPLACE FUNCTION op_put_service(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO services (namespace, name, definition) VALUES (ns, r->>'name', r->>'definition')
    ON CONFLICT (namespace, name) DO UPDATE SET definition = EXCLUDED.definition;
  RETURN reply('null', nothing());
END $$;

CREATE OR REPLACE FUNCTION op_list_services(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT COALESCE(json_agg(definition ORDER BY name), '[]') FROM services
    WHERE namespace = ns AND (r->>'name' IS NULL OR name = r->>'name'));
END $$;

CREATE OR REPLACE FUNCTION op_delete_service(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM services WHERE namespace = ns AND name = r->>'name';
  RETURN reply('null', nothing());
END $$;

CREATE OR REPLACE FUNCTION op_add_dead_letter(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE number bigint;
BEGIN
  INSERT INTO dead_letters (namespace, created_at, reason, service, message)
    VALUES (ns, present(clock), r->>'reason', r->>'service', r->>'message')
    RETURNING letter_id INTO number;
  RETURN reply(to_json(number), observe(nothing(), json_build_array('dead_letter', r->>'service')));
END $$;

CREATE OR REPLACE FUNCTION op_list_dead_letters(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT COALESCE(json_agg(json_build_object('letter_id', letter_id,
    'created_at', created_at, 'reason', reason, 'service', service, 'task_id', task_id,
    'message', message) ORDER BY letter_id), '[]') FROM dead_letters WHERE namespace = ns);
END $$;

CREATE OR REPLACE FUNCTION op_delete_dead_letter(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM dead_letters WHERE letter_id = (r->'letter_id')::bigint AND namespace = ns;
  RETURN reply(to_json(FOUND), nothing());
END $$;

-- A new life at the end of its session's order.
CREATE OR REPLACE FUNCTION op_retry_dead_letter(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  letter bigint := (r->'letter_id')::bigint;
  task text;
  t tasks;
  last bigint;
  e effects := nothing();
BEGIN
  SELECT task_id INTO task FROM dead_letters WHERE letter_id = letter AND namespace = ns;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'dead letter % does not exist', letter USING ERRCODE = 'LD404';
  END IF;
  t := locked_task(ns, task);
  IF t.id IS NULL THEN
    RAISE EXCEPTION 'the task of dead letter % is gone: it cannot be retried', letter
      USING ERRCODE = 'LD404';
  ELSIF t.state <> 'failed' THEN
    RAISE EXCEPTION 'task ''%'' is %, not failed', t.task_id, shown_state(t.state)
      USING ERRCODE = 'LD409';
  END IF;
  DELETE FROM dead_letters WHERE letter_id = letter;
  IF NOT t.detached THEN last := last_place(ns, t.session_id, t.service); END IF;
  UPDATE tasks SET state = 'queued', timer = NULL,
    place = CASE WHEN NOT t.detached THEN COALESCE(last, 0) + 1 END, crashes = 0, errors = 0,
    parked_at = NULL, finished_at = NULL, event_count = 0, result = NULL, data = NULL
    WHERE id = t.id;
  e := touch(e, t.task_id);
  IF last IS NULL THEN e := requeue(t.id, present(clock), e); END IF;
  RETURN reply('null', e);
END $$;
