-- Attempts: start, leases, park, release, finish. See ExecutionStore in state_stores/base.py.

CREATE OR REPLACE FUNCTION op_start(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  e effects := nothing();
  now float8;
  wanted text := r->>'task_id';
BEGIN
  t := locked_task(ns, wanted);
  now := present(clock);
  IF t.id IS NULL THEN
    RETURN dropped(CASE WHEN is_buried(ns, wanted) THEN 'terminal' ELSE 'unknown' END, e);
  ELSIF is_terminal(t.state) THEN
    RETURN follow(t, r, 'terminal', e);
  ELSIF t.state = 'running' THEN
    IF t.execution_id = r->>'execution_id' THEN
      UPDATE tasks SET timer = now + (r->>'lease')::float8 WHERE id = t.id;
      RETURN reply(execution(t), e);
    ELSIF t.timer > now THEN
      RETURN follow(t, r, 'leased', e);
    ELSIF t.crashes + t.errors >= t.max_retries THEN
      RETURN dropped('terminal', give_up_lost(t, now, e));
    END IF;
    t.crashes := t.crashes + 1;
    e := observe(e, json_build_array('redelivered', t.service));
  ELSIF t.state <> 'queued' OR t.timer IS NULL THEN
    RETURN follow(t, r, 'not_due', e);
  END IF;
  e := touch(observe(e, json_build_array('started', t.service, t.task_id,
    CASE WHEN t.attempt = 0 THEN now - t.created_at END)), t.task_id);
  UPDATE tasks SET state = 'running', timer = now + (r->>'lease')::float8, attempt = attempt + 1,
    bases = CASE WHEN base_index = 0 THEN bases
      ELSE jsonb_set(bases, ARRAY[(attempt + 1)::text], to_jsonb(base_index)) END,
    crashes = t.crashes, execution_id = r->>'execution_id', worker_id = r->>'worker_id',
    started_at = COALESCE(started_at, now), queue_deadline = NULL
    WHERE id = t.id RETURNING * INTO t;
  DELETE FROM outbox WHERE task = t.id;
  RETURN reply(execution(t), e);
END $$;

CREATE OR REPLACE FUNCTION dropped(reason text, e effects) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  RETURN reply(json_build_object('type', 'dropped', 'reason', reason), e);
END $$;

-- A run beside the one that leads, or that led; else it is dropped. Only a run that was begun, and is
-- not to be stopped, is followed from the very beginning, whatever was parked since.
CREATE OR REPLACE FUNCTION follow(t tasks, r jsonb, reason text, e effects) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  number integer := COALESCE((r->'follow')::integer, 0);
  running boolean := t.state = 'running';
  present boolean := running AND number = t.dispatch;
BEGIN
  IF running AND t.worker_id = r->>'worker_id' OR NOT (present OR (number = 1 AND t.stage = 0
      AND t.state IN ('running', 'waiting', 'succeeded', 'failed'))) THEN
    RETURN dropped(reason, e);
  END IF;
  UPDATE tasks SET followers = followers + 1 WHERE id = t.id;
  IF NOT present THEN
    t.base_index := 0;
    t.consumed_seq := 0;
    t.parked_attempt := 0;
    t.wait_expired := false;
    t.run_seconds := 0;
  END IF;
  RETURN reply((execution(t)::jsonb || '{"leading": false, "alone": false}')::json, e);
END $$;

CREATE OR REPLACE FUNCTION execution(t tasks) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  text_ text;
  snapshot_ text;
  context_ text;
BEGIN
  IF t.parked_attempt > 0 THEN
    SELECT snapshot INTO snapshot_ FROM snapshots WHERE task = t.id;
  END IF;
  SELECT COALESCE(i.stage_input, i.input), CASE WHEN snapshot_ IS NULL THEN
      (SELECT context FROM contexts c WHERE c.namespace = t.namespace
        AND c.session_id = t.session_id AND c.service = t.service) END
    INTO text_, context_ FROM inputs i WHERE i.task = t.id;
  RETURN execution_of(t, text_, context_, snapshot_,
    CASE WHEN t.inbound_seq > t.consumed_seq THEN inbound_after(t.id, t.consumed_seq) END);
END $$;

-- In SQL, so that it becomes a part of the statement that calls it.
CREATE OR REPLACE FUNCTION execution_of(t tasks, text_ text, context_ text, snapshot_ text,
  inbound_ json) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT json_build_object('type', 'execution', 'task_id', t.task_id,
    'session_id', t.session_id, 'service', t.service, 'attempt', t.attempt, 'input', text_,
    'context', context_, 'snapshot', snapshot_, 'base_index', t.base_index,
    'inbound', COALESCE(inbound_, '[]'),
    'consumed_seq', t.consumed_seq, 'parked_code_version', t.parked_code_version,
    'wait_expired', t.wait_expired, 'run_seconds', t.run_seconds,
    'alone', t.crashes > 0 AND t.crashes + t.errors >= t.max_retries,
    'keep_context', NOT t.detached, 'wait_timeout', t.wait_timeout, 'ancestors', t.ancestors)
$$;

CREATE OR REPLACE FUNCTION inbound_after(number bigint, after_ bigint) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT COALESCE(json_agg(json_build_object('seq', seq, 'event', event) ORDER BY seq),
    '[]') FROM inbound WHERE task = number AND seq > after_);
END $$;

-- Takes no lock of a session: who holds it is about to end or move the attempt. A row that somebody
-- works on is answered as it stands and renewed with the next heartbeat; its custody is not counted.
CREATE OR REPLACE FUNCTION op_renew(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE worker text := r->>'worker_id';
BEGIN
  UPDATE tasks SET timer = present(clock) + (r->>'lease')::float8,
    custody_attempt = CASE WHEN (r->'custody')::boolean THEN attempt ELSE custody_attempt END
    WHERE id = ANY (ARRAY(
      SELECT t.id FROM jsonb_array_elements(r->'keys') k,
        LATERAL (SELECT id, state, worker_id, attempt FROM tasks WHERE namespace || '' = ns
          AND task_id = k->>'task_id' LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) t
      WHERE t.state = 'running' AND t.worker_id = worker
        AND t.attempt = (k->>'attempt')::integer));
  RETURN reply((
    SELECT COALESCE(json_agg(json_build_object('key', k, 'alive', a.alive,
      'cancelled', t.state IS NOT DISTINCT FROM 'cancelled',
      'inbound_seq', COALESCE(t.inbound_seq, 0),
      'live', COALESCE(t.state IN ('queued', 'running'), false)) ORDER BY n), '[]')
    FROM jsonb_array_elements(r->'keys') WITH ORDINALITY AS list (k, n)
      LEFT JOIN LATERAL (SELECT * FROM tasks WHERE namespace || '' = ns
        AND task_id = k->>'task_id' LIMIT 1) t ON true
      CROSS JOIN LATERAL (SELECT COALESCE(t.state = 'running' AND t.worker_id = worker
        AND t.attempt = (k->>'attempt')::integer, false) AS alive) a), nothing());
END $$;

CREATE OR REPLACE FUNCTION is_current(t tasks, attempt_ jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS
$$ SELECT t.id IS NOT NULL AND t.state = 'running' AND t.attempt = attempt_::integer $$;

CREATE OR REPLACE FUNCTION op_append_events(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  t := locked_task(ns, r->'key'->>'task_id');
  IF NOT is_current(t, r->'key'->'attempt') THEN RETURN reply('false', nothing()); END IF;
  RETURN reply('true', write_events(t, r->'events', nothing()));
END $$;

CREATE OR REPLACE FUNCTION op_read_inbound(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  SELECT * INTO t FROM tasks WHERE namespace || '' = ns AND task_id = r->'key'->>'task_id';
  IF t.id IS NULL OR t.attempt <> (r->'key'->'attempt')::integer THEN RETURN '[]'; END IF;
  RETURN inbound_after(t.id, (r->>'after')::bigint);
END $$;

CREATE OR REPLACE FUNCTION op_park(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  e effects := nothing();
  now float8;
  since float8;
  number integer := (r->'key'->'attempt')::integer;
  consumed bigint := (r->>'consumed_seq')::bigint;
BEGIN
  t := locked_task(ns, r->'key'->>'task_id');
  now := present(clock);
  IF NOT is_current(t, r->'key'->'attempt') THEN
    -- The answer to this very park got lost: what it led to is in the store.
    RETURN reply(to_json(t.id IS NOT NULL AND t.attempt = number AND t.parked_attempt = number
      AND t.state IN ('queued', 'waiting')), e);
  END IF;
  e := write_events(t, r->'events', e);
  INSERT INTO snapshots (task, snapshot) VALUES (t.id, r->>'snapshot')
    ON CONFLICT (task) DO UPDATE SET snapshot = EXCLUDED.snapshot;
  -- An answer ends a wait: the next question gets the whole time again.
  since := CASE WHEN t.parked_at IS NULL OR consumed > t.consumed_seq THEN now
    ELSE t.parked_at END;
  UPDATE tasks SET state = 'waiting',
    timer = LEAST((r->>'deadline')::float8, since + t.wait_timeout), consumed_seq = consumed,
    base_index = (r->>'next_index')::bigint, parked_attempt = number, parked_at = since,
    parked_code_version = r->>'code_version', wait_expired = false,
    run_seconds = (r->>'run_seconds')::float8, execution_id = NULL, worker_id = NULL
    WHERE id = t.id;
  e := touch(observe(e, json_build_array('ran', t.service, t.task_id)), t.task_id);
  IF t.inbound_seq > consumed THEN e := requeue(t.id, now, e); END IF;
  RETURN reply('true', e);
END $$;

CREATE OR REPLACE FUNCTION op_finish(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  t tasks;
  e effects := nothing();
  now float8;
  ending text := r->>'state';
BEGIN
  t := locked_task(ns, r->'key'->>'task_id');
  now := present(clock);
  IF t.id IS NULL THEN RETURN reply('false', e); END IF;
  IF NOT is_current(t, r->'key'->'attempt') THEN
    -- Accepted where it is this very completion: its answer got lost.
    RETURN reply(to_json(t.attempt = (r->'key'->'attempt')::integer AND t.state = ending
      AND t.result IS NOT DISTINCT FROM r->>'result'), e);
  END IF;
  e := observe(write_events(t, r->'events', e), json_build_array('ran', t.service, t.task_id));
  IF ending = 'failed' AND t.retry_on_error AND (r->'retryable')::boolean
    AND t.crashes + t.errors < t.max_retries
  THEN
    UPDATE tasks SET errors = errors + 1 WHERE id = t.id;
    e := requeue(t.id, now, observe(e, json_build_array('redelivered', t.service)));
    RETURN reply('true', e);
  END IF;
  IF ending = 'succeeded' AND r->>'context' IS NOT NULL AND NOT t.detached THEN
    INSERT INTO contexts (namespace, session_id, service, context)
      VALUES (ns, t.session_id, t.service, r->>'context')
      ON CONFLICT (namespace, session_id, service) DO UPDATE SET context = EXCLUDED.context;
  END IF;
  RETURN reply('true', deliver(t, ending, r->>'result', r->'data', now, e));
END $$;

CREATE OR REPLACE FUNCTION op_release(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  t := locked_task(ns, r->'key'->>'task_id');
  IF NOT is_current(t, r->'key'->'attempt') THEN RETURN reply('false', nothing()); END IF;
  RETURN reply('true', requeue(t.id, present(clock), nothing()));
END $$;

CREATE OR REPLACE FUNCTION op_note_resident(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE tasks SET resident = r->>'reason', resident_attempt = attempt
    WHERE namespace || '' = ns AND task_id = r->'key'->>'task_id'
    AND attempt = (r->'key'->'attempt')::integer AND state = 'running';
  RETURN reply(to_json(FOUND), nothing());
END $$;

CREATE OR REPLACE FUNCTION op_expire_worker(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE number integer;
BEGIN
  UPDATE tasks SET timer = present(clock) WHERE id IN (
    SELECT id FROM tasks WHERE namespace = ns AND state = 'running'
      AND worker_id = r->>'worker_id' AND timer > present(clock) ORDER BY id FOR NO KEY UPDATE);
  GET DIAGNOSTICS number = ROW_COUNT;
  RETURN reply(to_json(number), nothing());
END $$;
