-- Creating, reading and ending tasks. See StateStore in state_stores/base.py.

CREATE OR REPLACE FUNCTION op_create_task(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  e effects := nothing();
  now float8;
  task text := r->>'task_id';
  session text := r->>'session_id';
  apart boolean := (r->'detached_context')::boolean OR r->>'policy' = 'parallel';
  fresh boolean := COALESCE((r->'new_session')::boolean, false);
  last bigint;
  number bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(session_key(ns, session));
  now := present(clock);
  SELECT * INTO t FROM tasks WHERE namespace || '' = ns AND task_id = task;
  IF FOUND THEN RETURN repeated(t, r->>'body_hash'); END IF;
  IF fresh THEN
    INSERT INTO sessions (namespace, session_id, touched_at, checked_at)
      VALUES (ns, session, now, now) ON CONFLICT DO NOTHING;
    fresh := FOUND;
  END IF;
  IF NOT fresh THEN
    PERFORM refuse_buried(ns, task);
    IF (r->'new_session')::boolean THEN PERFORM refuse_session(session); END IF;
    PERFORM require_session(ns, session);
  END IF;
  IF NOT (apart OR fresh) THEN
    last := last_place(ns, session, r->>'service');
    IF last IS NOT NULL AND r->>'policy' = 'reject' THEN
      RAISE EXCEPTION 'session ''%'' has an unfinished task of service ''%'', which takes one at a time (session policy ''reject''); wait for it or use another session',
        session, r->>'service' USING ERRCODE = 'LD423';
    END IF;
  END IF;
  INSERT INTO tasks (namespace, task_id, session_id, service, state, timer, place, dispatch,
    body_hash, max_retries, retry_on_error, queue_deadline, wait_timeout, orchestrated, detached,
    parent, ancestors, created_at)
  SELECT ns, task, session, r->>'service', 'queued', CASE WHEN last IS NULL THEN now END,
    CASE WHEN NOT apart THEN COALESCE(last, 0) + 1 END, CASE WHEN last IS NULL THEN 1 ELSE 0 END,
    r->>'body_hash', (r->'max_retries')::integer, (r->'retry_on_error')::boolean,
    now + (r->>'queue_timeout')::float8, (r->>'wait_timeout')::float8,
    (r->'orchestrated')::boolean, apart, r->>'parent', r->'ancestors', now
  WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE hash = tombstone(ns, task))
  ON CONFLICT (namespace, task_id) DO NOTHING
  RETURNING * INTO t;
  IF NOT FOUND THEN
    PERFORM refuse_buried(ns, task);
    -- Created in another session at this very moment.
    RAISE EXCEPTION 'task ''%'' is being created', task USING ERRCODE = '40001';
  END IF;
  INSERT INTO inputs (task, input) VALUES (t.id, r->>'input');
  e := touch(e, task);
  IF last IS NULL THEN
    INSERT INTO outbox (namespace, task, kind, due) VALUES (ns, t.id, 'run', now + 5)
      RETURNING row_id INTO number;
    e.publish := ARRAY[outbox_message(t, number, 'run', r->>'input')];
  END IF;
  RETURN reply(json_build_object('task_id', task, 'session_id', session), e);
END $$;

CREATE OR REPLACE FUNCTION refuse_buried(ns text, task text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF is_buried(ns, task) THEN
    RAISE EXCEPTION 'task ''%'' existed and was forgotten; use a new task_id', task
      USING ERRCODE = 'LD409';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION repeated(t tasks, hash text) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  IF t.body_hash <> hash THEN
    RAISE EXCEPTION 'task ''%'' exists already with another body; use a new task_id', t.task_id
      USING ERRCODE = 'LD409';
  END IF;
  RETURN reply(json_build_object('task_id', t.task_id, 'session_id', t.session_id,
    'existed', true), nothing());
END $$;

-- In SQL, so that it becomes a part of the statement that calls it.
CREATE OR REPLACE FUNCTION task_record(t tasks) RETURNS json LANGUAGE sql VOLATILE AS $$
  SELECT json_build_object('task_id', t.task_id, 'session_id', t.session_id,
    'service', t.service, 'state', shown_state(t.state), 'attempt', t.attempt,
    'crashes', t.crashes, 'created_at', t.created_at, 'started_at', t.started_at,
    'finished_at', t.finished_at, 'result', CASE WHEN is_terminal(t.state) THEN t.result END,
    'data', CASE WHEN is_terminal(t.state) THEN COALESCE(t.data, '{}') ELSE '{}' END,
    'event_count', CASE WHEN is_terminal(t.state) THEN t.event_count ELSE event_count(t) END,
    'owner', CASE WHEN t.state = 'running' THEN t.worker_id END, 'parent', t.parent,
    'wait_deadline', CASE WHEN t.state = 'waiting' THEN t.timer END,
    'resident', CASE WHEN t.state = 'running' AND t.resident_attempt = t.attempt
      THEN t.resident END, 'runs', t.attempt + t.followers)
$$;

CREATE OR REPLACE FUNCTION op_get_task(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  SELECT * INTO t FROM tasks WHERE namespace || '' = ns AND task_id = r->>'task_id';
  IF NOT FOUND THEN RETURN 'null'; END IF;
  RETURN task_record(t);
END $$;

CREATE OR REPLACE FUNCTION op_get_input(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN COALESCE((SELECT to_json(COALESCE(stage_input, input)) FROM tasks t
    JOIN inputs i ON i.task = t.id WHERE namespace || '' = ns AND task_id = r->>'task_id'), 'null');
END $$;

-- Definitions of one session, or a page of all of them: those numbered above `after`.
CREATE OR REPLACE FUNCTION op_list_tasks(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE session text := r->>'session_id';
BEGIN
  IF session IS NOT NULL THEN
    PERFORM require_session(ns, session);
    RETURN (SELECT COALESCE(json_agg(json_build_object('id', t.id, 'task_id', task_id,
      'session_id', session_id, 'service_id', service, 'input', input) ORDER BY t.id), '[]')
      FROM tasks t JOIN inputs i ON i.task = t.id
      WHERE namespace || '' = ns AND session_id = session);
  END IF;
  RETURN (SELECT COALESCE(json_agg(json_build_object('id', t.id, 'task_id', task_id,
    'session_id', session_id, 'service_id', service, 'input', input) ORDER BY t.id), '[]')
    FROM (SELECT * FROM tasks WHERE id > (r->>'after')::bigint AND namespace = ns ORDER BY id
      LIMIT (r->>'limit')::bigint) t JOIN inputs i ON i.task = t.id);
END $$;

CREATE OR REPLACE FUNCTION op_find_tasks(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  states text[] := ARRAY(SELECT jsonb_array_elements_text(r->'states'));
  before_ bigint;
BEGIN
  IF r->>'before' IS NOT NULL THEN
    SELECT id INTO before_ FROM tasks WHERE namespace || '' = ns AND task_id = r->>'before';
    IF NOT FOUND THEN RETURN '[]'; END IF;
  END IF;
  IF 'running' = ANY (states) THEN states := states || 'routing'::text; END IF;
  RETURN (SELECT COALESCE(json_agg(task_record(t) ORDER BY t.id DESC), '[]') FROM (
    SELECT * FROM tasks WHERE namespace = ns
      AND (r->>'session_id' IS NULL OR session_id = r->>'session_id')
      AND (r->>'service' IS NULL OR service = r->>'service')
      AND (cardinality(states) = 0 OR state = ANY (states))
      AND (before_ IS NULL OR id < before_)
    ORDER BY id DESC LIMIT (r->>'limit')::bigint) f JOIN tasks t ON t.id = f.id);
END $$;

-- An attempt that was interrupted waits again since its last dispatch, a new task since it is there.
CREATE OR REPLACE FUNCTION op_service_load(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (
    WITH groups AS (
      SELECT state, CASE WHEN state = 'running' THEN COALESCE(worker_id, '') END AS worker,
        timer IS NULL AS timeless, count(*) AS number,
        count(*) FILTER (WHERE attempt > 0 AND custody_attempt = attempt) AS kept,
        min(CASE WHEN attempt = 0 THEN created_at ELSE timer END) AS since
      FROM tasks WHERE namespace = ns AND service = r->>'service'
        AND state IN ('queued', 'running', 'waiting') GROUP BY 1, 2, 3
    )
    SELECT json_build_object(
      'queued', COALESCE(sum(number) FILTER (WHERE state = 'queued' AND NOT timeless), 0),
      'blocked', COALESCE(sum(number) FILTER (WHERE state = 'queued' AND timeless), 0),
      'waiting', COALESCE(sum(number) FILTER (WHERE state = 'waiting'), 0),
      'running', COALESCE((SELECT json_object_agg(worker, number) FROM
        (SELECT worker, sum(number) AS number FROM groups WHERE state = 'running' GROUP BY 1) w),
        '{}'),
      'custody', COALESCE(sum(kept) FILTER (WHERE state = 'running'), 0),
      'oldest_queued_at', min(since) FILTER (WHERE state = 'queued' AND NOT timeless))
    FROM groups);
END $$;

CREATE OR REPLACE FUNCTION op_complete(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  t := locked_task(ns, r->>'task_id');
  IF t.id IS NULL OR is_terminal(t.state) OR t.state = 'routing' THEN
    RETURN reply('false', nothing());
  END IF;
  RETURN reply('true', deliver(t,
    CASE WHEN r->'data'->>'state' = 'failed' THEN 'failed' ELSE 'succeeded' END,
    r->>'result', r->'data', present(clock), nothing()));
END $$;

CREATE OR REPLACE FUNCTION op_give_up(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  t := locked_task(ns, r->>'task_id');
  IF t.id IS NULL OR t.state <> 'queued' THEN
    RETURN reply('false', nothing());
  END IF;
  RETURN reply('true', give_up(t, 'MessageLost', r->>'reason', present(clock), nothing()));
END $$;

CREATE OR REPLACE FUNCTION op_cancel(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  tree bigint[];
  c record;
BEGIN
  tree := locked_tree(ns, r->>'task_id', NULL);
  t := existing_task(ns, r->>'task_id');
  IF is_terminal(t.state) THEN
    RETURN reply(json_build_object('state', t.state, 'changed', false), nothing());
  END IF;
  IF t.id <> ALL (tree) THEN
    RAISE EXCEPTION 'task ''%'' was just revived', t.task_id USING ERRCODE = '40001';
  END IF;
  SELECT * INTO c FROM cancel_tree(tree, r->>'reason', present(clock), nothing());
  RETURN reply(json_build_object('state', 'cancelled', 'changed', true, 'nudge', c.nudge), c.e);
END $$;

CREATE OR REPLACE FUNCTION op_append_foreign_event(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  t := locked_task(ns, r->>'task_id');
  IF t.id IS NULL OR is_terminal(t.state) THEN RETURN reply('false', nothing()); END IF;
  RETURN reply('true', write_events(t, r->'events', nothing()));
END $$;

CREATE OR REPLACE FUNCTION op_append_inbound(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  e effects := nothing();
BEGIN
  t := existing_task(ns, r->>'task_id');
  IF is_terminal(t.state) THEN
    RETURN reply(json_build_object('seq', t.inbound_seq, 'state', t.state), e);
  END IF;
  INSERT INTO inbound (task, seq, event) VALUES (t.id, t.inbound_seq + 1, r->>'event');
  UPDATE tasks SET inbound_seq = inbound_seq + 1 WHERE id = t.id;
  IF t.state = 'waiting' THEN e := requeue(t.id, present(clock), e); END IF;
  RETURN reply(json_build_object('seq', t.inbound_seq + 1, 'state', shown_state(t.state),
    'owner', CASE WHEN t.state = 'running' THEN t.worker_id END), e);
END $$;

CREATE OR REPLACE FUNCTION op_read_log(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE page json;
BEGIN
  -- One statement: where the task stands and its events are of the same moment.
  SELECT json_build_object('state', shown_state(t.state), 'attempt', t.attempt,
    'bases', (SELECT json_object_agg(n, COALESCE((t.bases->>n::text)::bigint, 0))
      FROM generate_series(LEAST(1, t.attempt), t.attempt) n),
    'event_count', GREATEST(t.base_index,
      (SELECT max(idx) + 1 FROM events WHERE task = t.id AND attempt = t.attempt)),
    'events', (SELECT COALESCE(json_agg(json_build_object('seq', seq, 'attempt', attempt,
      'index', idx, 'type', type, 'data', data) ORDER BY seq), '[]') FROM
      (SELECT * FROM events WHERE task = t.id AND seq > (r->>'after')::bigint ORDER BY seq
        LIMIT (r->>'limit')::bigint) e))
    INTO page FROM tasks t WHERE namespace || '' = ns AND task_id = r->>'task_id';
  IF page IS NULL THEN
    RAISE EXCEPTION 'task ''%'' does not exist (or has expired)', r->>'task_id'
      USING ERRCODE = 'LD404';
  END IF;
  RETURN page;
END $$;

CREATE OR REPLACE FUNCTION op_counts(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT json_object_agg(s, n) FROM (
    SELECT shown_state(state) s, count(*) n FROM tasks WHERE namespace = ns GROUP BY 1
    UNION ALL SELECT 'outbox', count(*) FROM outbox WHERE namespace = ns) c);
END $$;

-- Where the followed tasks stand, so that a missed notification is noticed.
CREATE OR REPLACE FUNCTION op_marks(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT COALESCE(json_object_agg(task_id, t.state || '/' || t.dispatch || '/' || t.attempt
    || '/' || (SELECT COALESCE(max(seq), 0) FROM events WHERE task = t.id)), '{}')
    FROM tasks t WHERE namespace || '' = ns
    AND task_id = ANY (ARRAY(SELECT jsonb_array_elements_text(r->'tasks'))));
END $$;
