-- Several operations in one transaction: one round trip and one flush to disk for all of them.
-- Where one fails, all are undone, and the client does them one by one.
--
-- What nearly every task goes through is done for all of its kind in one statement, as starting one
-- costs more than its rows: a first task of a new session, the start of a queued one,
-- the end of one that nobody waits behind. The rest goes the way of single operations.
--
-- Tables are looked into by subqueries with LIMIT, or by `= ANY`: in a join the planner may read a
-- table that was small when the plan was made.

CREATE OR REPLACE FUNCTION run_batch(ns text, clock float8, names text[], requests jsonb[])
RETURNS SETOF json LANGUAGE plpgsql AS $$
DECLARE
  replies json[] := array_fill(NULL::json, ARRAY[cardinality(names)]);
  now float8;
BEGIN
  IF cardinality(names) = 1 THEN
    PERFORM lock_one(ns, names[1], requests[1]);
  ELSE
    PERFORM lock_all(ns, names, requests);
  END IF;
  now := present(clock);
  IF 'create_task' = ANY (names) THEN
    replies := create_many(ns, now, names, requests, replies);
  END IF;
  IF 'start' = ANY (names) THEN
    replies := start_many(ns, now, names, requests, replies);
  END IF;
  IF 'finish' = ANY (names) THEN
    replies := finish_many(ns, now, names, requests, replies);
  END IF;
  FOR i IN 1 .. cardinality(names) LOOP
    RETURN NEXT COALESCE(replies[i], CASE names[i]
      WHEN 'create_task' THEN op_create_task(ns, clock, requests[i])
      WHEN 'start' THEN op_start(ns, clock, requests[i])
      WHEN 'finish' THEN op_finish(ns, clock, requests[i])
      WHEN 'append_events' THEN op_append_events(ns, clock, requests[i])
      WHEN 'park' THEN op_park(ns, clock, requests[i])
      WHEN 'release' THEN op_release(ns, clock, requests[i])
      WHEN 'read_inbound' THEN op_read_inbound(ns, clock, requests[i])
      WHEN 'get_task' THEN op_get_task(ns, clock, requests[i])
      WHEN 'get_input' THEN op_get_input(ns, clock, requests[i])
      WHEN 'read_log' THEN op_read_log(ns, clock, requests[i])
      WHEN 'get_session' THEN op_get_session(ns, clock, requests[i])
    END);
  END LOOP;
END $$;

-- The lock of the session that an operation is about.
CREATE OR REPLACE FUNCTION lock_one(ns text, name text, r jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF name = 'create_task' THEN
    PERFORM pg_advisory_xact_lock(session_key(ns, r->>'session_id'));
  ELSIF name IN ('start', 'finish', 'append_events', 'park', 'release') THEN
    PERFORM pg_advisory_xact_lock(session_key(ns, session_id)) FROM tasks
      WHERE namespace || '' = ns AND task_id = COALESCE(r->>'task_id', r->'key'->>'task_id');
  END IF;
END $$;

-- The same for all of them, in the order of their keys, as whoever needs several takes them.
CREATE OR REPLACE FUNCTION lock_all(ns text, names text[], requests jsonb[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM count(pg_advisory_xact_lock(key)) FROM (
    SELECT session_key(ns, r->>'session_id') AS key FROM unnest(names, requests) AS o (n, r)
      WHERE n = 'create_task'
    UNION
    SELECT session_key(ns, (SELECT session_id FROM tasks WHERE namespace || '' = ns
        AND task_id = COALESCE(r->>'task_id', r->'key'->>'task_id') LIMIT 1))
      FROM unnest(names, requests) AS o (n, r)
      WHERE n IN ('start', 'finish', 'append_events', 'park', 'release')
    ORDER BY key) AS keys WHERE key IS NOT NULL;
END $$;

-- Tasks that begin a session: see op_create_task.
CREATE OR REPLACE FUNCTION create_many(ns text, now float8, names text[], requests jsonb[],
  replies json[]) RETURNS json[] LANGUAGE plpgsql AS $$
DECLARE
  c record;
  begun bigint := 0;
  created bigint := 0;
BEGIN
  FOR c IN
    WITH asked AS MATERIALIZED (
      SELECT DISTINCT ON (r->>'session_id') n::integer AS n, r, r->>'task_id' AS task_id,
        r->>'session_id' AS session_id,
        (r->'detached_context')::boolean OR r->>'policy' = 'parallel' AS apart
      FROM unnest(names, requests) WITH ORDINALITY AS o (name, r, n)
      WHERE name = 'create_task' AND (r->'new_session')::boolean
        AND (SELECT id FROM tasks t WHERE t.namespace || '' = ns AND t.task_id = r->>'task_id'
          LIMIT 1) IS NULL
        AND (SELECT hash FROM tombstones WHERE hash = tombstone(ns, r->>'task_id')
          LIMIT 1) IS NULL
    ),
    s AS (
      INSERT INTO sessions (namespace, session_id, touched_at, checked_at)
        SELECT ns, session_id, now, now FROM asked ON CONFLICT DO NOTHING RETURNING session_id
    ),
    t AS (
      INSERT INTO tasks (namespace, task_id, session_id, service, state, timer, place, dispatch,
        body_hash, max_retries, retry_on_error, queue_deadline, wait_timeout, orchestrated,
        detached, parent, ancestors, created_at)
      SELECT ns, task_id, session_id, r->>'service', 'queued', now, CASE WHEN NOT apart THEN 1 END,
        1, r->>'body_hash', (r->'max_retries')::integer, (r->'retry_on_error')::boolean,
        now + (r->>'queue_timeout')::float8, (r->>'wait_timeout')::float8,
        (r->'orchestrated')::boolean, apart, r->>'parent', r->'ancestors', now
      FROM asked JOIN s USING (session_id)
      ON CONFLICT (namespace, task_id) DO NOTHING RETURNING id, task_id
    ),
    i AS (
      INSERT INTO inputs (task, input) SELECT id, r->>'input' FROM t JOIN asked USING (task_id)
    ),
    o AS (
      INSERT INTO outbox (namespace, task, kind, due) SELECT ns, id, 'run', now + 5 FROM t
        RETURNING row_id, task
    )
    SELECT n, (SELECT count(*) FROM s) AS sessions,
      json_build_object('value', json_build_object('task_id', task_id, 'session_id', session_id),
        'publish', json_build_array(json_build_object('row_id', row_id,
          'message_id', task_id || '/1', 'kind', 'run', 'task_id', task_id,
          'session_id', session_id, 'service', r->'service', 'input',
          CASE WHEN octet_length(r->>'input') <= 131072 THEN r->'input' END,
          'ancestors', r->'ancestors')),
        'touched', json_build_array(task_id)) AS reply
    FROM o JOIN t ON t.id = o.task JOIN asked USING (task_id)
  LOOP
    replies[c.n] := c.reply;
    begun := c.sessions;
    created := created + 1;
  END LOOP;
  IF created < begun THEN
    RAISE EXCEPTION 'a task is being created in two sessions' USING ERRCODE = '40001';
  END IF;
  RETURN replies;
END $$;

-- Tasks that are queued: see op_start.
CREATE OR REPLACE FUNCTION start_many(ns text, now float8, names text[], requests jsonb[],
  replies json[]) RETURNS json[] LANGUAGE plpgsql AS $$
DECLARE
  ids bigint[];
  asked jsonb[];
  numbers integer[];
  c record;
BEGIN
  SELECT array_agg(t.id), array_agg(r), array_agg(n) INTO ids, asked, numbers
    FROM unnest(names, requests) WITH ORDINALITY AS o (name, r, n),
      LATERAL (SELECT id, state, timer FROM tasks WHERE namespace || '' = ns
        AND task_id = r->>'task_id' LIMIT 1) t
    WHERE name = 'start' AND t.state = 'queued' AND t.timer IS NOT NULL;
  IF ids IS NULL THEN RETURN replies; END IF;
  FOR c IN
    WITH o AS (DELETE FROM outbox WHERE task = ANY (ids))
    UPDATE tasks t SET state = 'running', attempt = attempt + 1,
      timer = now + (asked[array_position(ids, t.id)]->>'lease')::float8,
      bases = CASE WHEN base_index = 0 THEN bases
        ELSE jsonb_set(bases, ARRAY[(attempt + 1)::text], to_jsonb(base_index)) END,
      execution_id = asked[array_position(ids, t.id)]->>'execution_id',
      worker_id = asked[array_position(ids, t.id)]->>'worker_id',
      started_at = COALESCE(started_at, now), queue_deadline = NULL
    WHERE t.id = ANY (ids)
    RETURNING numbers[array_position(ids, t.id)] AS n,
      json_build_object('value', execution_of(t,
          (SELECT COALESCE(i.stage_input, i.input) FROM inputs i WHERE i.task = t.id),
          CASE WHEN parked_attempt = 0 THEN (SELECT context FROM contexts x
            WHERE x.namespace = ns AND x.session_id = t.session_id AND x.service = t.service) END,
          CASE WHEN parked_attempt > 0 THEN
            (SELECT snapshot FROM snapshots p WHERE p.task = t.id) END,
          CASE WHEN inbound_seq > consumed_seq THEN inbound_after(t.id, consumed_seq) END),
        'touched', json_build_array(task_id),
        'observed', json_build_array(json_build_array('started', service, task_id,
          CASE WHEN attempt = 1 THEN now - created_at END))) AS reply
  LOOP
    replies[c.n] := c.reply;
  END LOOP;
  RETURN replies;
END $$;

-- Ends of present attempts after which nothing else follows: see op_finish.
CREATE OR REPLACE FUNCTION finish_many(ns text, now float8, names text[], requests jsonb[],
  replies json[]) RETURNS json[] LANGUAGE plpgsql AS $$
DECLARE
  ids bigint[];
  asked jsonb[];
  numbers integer[];
  attempts integer[];
  keeping text[];
  services_ text[];
  c record;
BEGIN
  SELECT array_agg(id), array_agg(r), array_agg(n), array_agg(attempt),
      array_agg(CASE WHEN r->>'state' = 'succeeded' AND NOT detached THEN session_id END),
      array_agg(service)
    INTO ids, asked, numbers, attempts, keeping, services_
    FROM (
      SELECT DISTINCT ON (t.id) t.*, r, n
      FROM unnest(names, requests) WITH ORDINALITY AS o (name, r, n),
        LATERAL (SELECT id, state, attempt, orchestrated, retry_on_error, parked_attempt, place,
          detached, session_id, service FROM tasks WHERE namespace || '' = ns
          AND task_id = r->'key'->>'task_id' LIMIT 1) t
      WHERE name = 'finish' AND t.state = 'running'
        AND t.attempt = (r->'key'->'attempt')::integer AND NOT t.orchestrated
        AND NOT (t.retry_on_error AND r->>'state' = 'failed') AND t.parked_attempt = 0
        AND (SELECT id FROM tasks b WHERE b.namespace || '' = ns AND b.session_id = t.session_id
          AND b.service = t.service AND b.place > t.place LIMIT 1) IS NULL
    ) present;
  IF ids IS NULL THEN RETURN replies; END IF;
  INSERT INTO events (task, seq, attempt, idx, type, data)
    SELECT ids[k], (SELECT COALESCE(max(seq), 0) FROM events v WHERE v.task = ids[k]) + m,
      attempts[k], (x->>'index')::bigint, x->>'type', x->>'data'
    FROM generate_subscripts(ids, 1) AS k,
      jsonb_array_elements(asked[k]->'events') WITH ORDINALITY AS list (x, m)
    ON CONFLICT DO NOTHING;
  FOR c IN
    WITH kept AS (
      INSERT INTO contexts (namespace, session_id, service, context)
        SELECT ns, keeping[k], services_[k], asked[k]->>'context'
        FROM generate_subscripts(ids, 1) AS k
        WHERE keeping[k] IS NOT NULL AND asked[k]->>'context' IS NOT NULL
      ON CONFLICT (namespace, session_id, service) DO UPDATE SET context = EXCLUDED.context
    )
    UPDATE tasks t SET state = asked[array_position(ids, t.id)]->>'state', timer = now,
      finished_at = now, place = NULL, queue_deadline = NULL,
      event_count = GREATEST(base_index, (SELECT max(idx) + 1 FROM events v
        WHERE v.task = t.id AND v.attempt = t.attempt)),
      result = asked[array_position(ids, t.id)]->>'result',
      data = NULLIF(asked[array_position(ids, t.id)]->'data', '{}')
    WHERE t.id = ANY (ids)
    RETURNING numbers[array_position(ids, t.id)] AS n,
      json_build_object('value', true, 'touched', json_build_array(task_id),
        'ended', json_build_array(json_build_array(task_id, task_record(t))),
        'observed', json_build_array(json_build_array('ran', service, task_id),
          json_build_array('ended', service, task_id, state))) AS reply
  LOOP
    replies[c.n] := c.reply;
  END LOOP;
  RETURN replies;
END $$;
