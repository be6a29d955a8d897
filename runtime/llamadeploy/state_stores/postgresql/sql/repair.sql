-- What the timer puts right, and forgetting. Any number of processes do this at the same time: each
-- takes what nobody else works on, and never waits for a session's lock.

CREATE OR REPLACE FUNCTION op_outbox_done(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
  -- Where a crash of the server takes this back, the rows are published again, under their ids.
  PERFORM set_config('synchronous_commit', 'off', true);
  -- Row by row, by LIMIT: for a list the planner may read all rows of the namespace.
  DELETE FROM outbox WHERE row_id = ANY (ARRAY(
    SELECT o.row_id FROM jsonb_array_elements_text(r->'row_ids') AS wanted (number),
      LATERAL (SELECT row_id, namespace FROM outbox WHERE row_id = number::bigint LIMIT 1
        FOR UPDATE SKIP LOCKED) o WHERE o.namespace = ns));
  RETURN reply('null', nothing());
END $$;

-- The task with its session locked, if both can be had at once and it is still in that state.
CREATE OR REPLACE FUNCTION taken(number bigint, ns text, session text, state_ text,
  until float8) RETURNS tasks LANGUAGE plpgsql AS $$
DECLARE t tasks;
BEGIN
  IF pg_try_advisory_xact_lock(session_key(ns, session)) THEN
    SELECT * INTO t FROM tasks WHERE id = number AND state = state_ AND timer <= until
      FOR NO KEY UPDATE;
  END IF;
  RETURN t;
END $$;

CREATE OR REPLACE FUNCTION op_repair(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  now float8 := present(clock);
  most bigint := (r->'limit')::bigint;
  resend float8 := (r->>'resend_unstarted_after')::float8;
  e effects := nothing();
  c record;
  t tasks;
  lost integer := 0;
  dead text[] := '{}';
  timed_out text[] := '{}';
  message text;
BEGIN
  -- What would be due only when a clock that was set back is where it was, is due now. Rows are
  -- leased for less than a minute; leases of runs follow the clock by their renewal.
  UPDATE outbox SET due = now WHERE namespace = ns AND due > now + 60;
  UPDATE tasks SET timer = now WHERE namespace = ns AND state = 'queued' AND timer > now + 60;
  UPDATE tasks SET timer = now WHERE namespace = ns AND state = 'routing' AND timer > now + 60;
  -- What is over ends first, so that no message goes out for it. Lost leases:
  FOR c IN SELECT id, session_id FROM tasks WHERE namespace = ns AND state = 'running'
    AND timer <= now ORDER BY timer LIMIT most
  LOOP
    t := taken(c.id, ns, c.session_id, 'running', now);
    CONTINUE WHEN t.id IS NULL;
    lost := lost + 1;
    IF t.crashes + t.errors >= t.max_retries THEN
      dead := dead || t.task_id;
      e := give_up_lost(t, now, e);
    ELSE
      UPDATE tasks SET crashes = crashes + 1 WHERE id = t.id;
      e := requeue(t.id, now, observe(e, json_build_array('redelivered', t.service)));
    END IF;
  END LOOP;
  -- Waits whose time is over, out of wait_timeout or only of a waiter's own:
  FOR c IN SELECT id, session_id FROM tasks WHERE namespace = ns AND state = 'waiting'
    AND timer <= now ORDER BY timer LIMIT most
  LOOP
    t := taken(c.id, ns, c.session_id, 'waiting', now);
    CONTINUE WHEN t.id IS NULL;
    IF t.parked_at + t.wait_timeout <= now THEN
      timed_out := timed_out || t.task_id;
      message := 'nobody answered within ' || t.wait_timeout || ' s (wait-timeout)';
      e := end_task(t, 'failed', message, error_data('failed', 'WaitTimeout', message), false, now,
        e);
    ELSE
      UPDATE tasks SET wait_expired = true WHERE id = t.id;
      e := requeue(t.id, now, e);
    END IF;
  END LOOP;
  SELECT * INTO c FROM end_queued(ns, now, most, e);
  e := c.e;
  timed_out := timed_out || c.ended;
  e := lease_due(ns, now, (r->>'outbox_lease')::float8, most, e);
  IF resend IS NOT NULL THEN
    e := resend_unstarted(ns, now, now - resend, r->'resend_services', most, e);
  END IF;
  RETURN reply(json_build_object('lost_leases', lost, 'dead_lettered', dead,
    'timed_out', timed_out), e);
END $$;

-- Tasks that nobody started in time; only queued ones have a deadline. All of them end before a
-- place is handed on, so that none of them is handed out meanwhile.
CREATE OR REPLACE FUNCTION end_queued(ns text, now float8, most bigint, INOUT e effects,
  OUT ended text[]) LANGUAGE plpgsql AS $$
DECLARE
  c record;
  t tasks;
  late tasks[] := '{}';
  message text := 'no worker started the task within its queue-timeout';
BEGIN
  ended := '{}';
  FOR c IN SELECT id, session_id FROM tasks WHERE namespace = ns AND queue_deadline <= now
    ORDER BY queue_deadline LIMIT most
  LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(session_key(ns, c.session_id));
    SELECT * INTO t FROM tasks WHERE id = c.id AND queue_deadline <= now;
    CONTINUE WHEN NOT FOUND;
    late := late || t;
    ended := ended || t.task_id;
    t.place := NULL;
    e := end_task(t, 'failed', message, error_data('failed', 'QueueTimeout', message), false, now,
      e);
  END LOOP;
  FOR c IN SELECT DISTINCT x.session_id, x.service FROM unnest(late) x
    WHERE x.place IS NOT NULL ORDER BY 1, 2
  LOOP
    e := advance(ns, c.session_id, c.service, now, e);
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION lease_due(ns text, now float8, lease float8, most bigint, e effects)
RETURNS effects LANGUAGE plpgsql AS $$
DECLARE
  o record;
  t tasks;
BEGIN
  FOR o IN SELECT row_id, kind, task FROM outbox WHERE namespace = ns AND due <= now
    ORDER BY due LIMIT most FOR UPDATE SKIP LOCKED
  LOOP
    UPDATE outbox SET due = now + lease WHERE row_id = o.row_id;
    SELECT * INTO t FROM tasks WHERE id = o.task;
    IF FOUND THEN e.publish := array_append(e.publish, outbox_row(t, o.row_id, o.kind)); END IF;
  END LOOP;
  RETURN e;
END $$;

-- Publish again, under the same id, what a forgetful queue may have lost; of the services that are
-- named, or (null) of all.
CREATE OR REPLACE FUNCTION resend_unstarted(ns text, now float8, before float8, services jsonb,
  most bigint, e effects) RETURNS effects LANGUAGE plpgsql AS $$
DECLARE
  c record;
  t tasks;
BEGIN
  FOR c IN
    (SELECT id, session_id, state FROM tasks WHERE namespace = ns AND state = 'queued'
      AND timer <= before AND (jsonb_typeof(services) = 'array') IS NOT TRUE
      ORDER BY timer LIMIT most)
    UNION ALL
    (SELECT id, session_id, state FROM tasks WHERE namespace = ns AND state = 'queued'
      AND timer <= before AND jsonb_typeof(services) = 'array' AND services ? service
      ORDER BY timer LIMIT most)
    UNION ALL
    (SELECT id, session_id, state FROM tasks WHERE namespace = ns AND state = 'routing'
      AND timer <= before ORDER BY timer LIMIT most)
  LOOP
    t := taken(c.id, ns, c.session_id, c.state, before);
    CONTINUE WHEN t.id IS NULL;
    UPDATE tasks SET timer = now WHERE id = t.id;
    IF NOT EXISTS (SELECT 1 FROM outbox WHERE task = t.id) THEN
      e := publish(t, CASE WHEN t.state = 'routing' THEN 'route' ELSE 'run' END, now, e);
    END IF;
  END LOOP;
  RETURN e;
END $$;

-- Seconds from now until repair has something to do next, or null.
CREATE OR REPLACE FUNCTION op_next_due(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE resend float8 := (r->>'resend_unstarted_after')::float8;
BEGIN
  RETURN COALESCE(to_json(LEAST(
    (SELECT min(due) FROM outbox WHERE namespace = ns),
    (SELECT min(timer) FROM tasks WHERE namespace = ns AND state = 'running'),
    (SELECT min(timer) FROM tasks WHERE namespace = ns AND state = 'waiting'),
    (SELECT min(queue_deadline) FROM tasks WHERE namespace = ns AND queue_deadline IS NOT NULL),
    CASE WHEN resend IS NOT NULL THEN resend
      + (SELECT min(timer) FROM tasks WHERE namespace = ns AND state = 'queued') END,
    CASE WHEN resend IS NOT NULL THEN resend
      + (SELECT min(timer) FROM tasks WHERE namespace = ns AND state = 'routing') END)
    - present(clock)), 'null');
END $$;

-- A live caller keeps its finished calls: when it runs again it finds them instead of repeating.
CREATE OR REPLACE FUNCTION op_expire(ns text, clock float8, r jsonb) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  now float8 := present(clock);
  older float8 := (r->>'older_than')::float8;
  most bigint := (r->'limit')::bigint;
  e effects := nothing();
  number integer := 0;
  c record;
BEGIN
  FOR c IN SELECT id, task_id, session_id FROM tasks t WHERE namespace = ns
    AND state IN ('succeeded', 'failed', 'cancelled') AND timer < older
    AND (parent IS NULL OR NOT EXISTS (SELECT 1 FROM tasks p WHERE p.namespace || '' = t.namespace
      AND p.task_id = t.parent AND p.state IN ('queued', 'running', 'waiting', 'routing')))
    LIMIT most
  LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(session_key(ns, c.session_id));
    PERFORM 1 FROM tasks WHERE id = c.id AND is_terminal(state) AND timer < older;
    CONTINUE WHEN NOT FOUND;
    e := forget(ns, c.id, c.task_id, now, e);
    number := number + 1;
    PERFORM delete_idle(ns, c.session_id, older);
  END LOOP;
  PERFORM check_sessions(ns, now, older, most);
  DELETE FROM dead_letters WHERE namespace = ns AND created_at < older;
  DELETE FROM tombstones WHERE hash IN (SELECT hash FROM tombstones WHERE expires_at <= now
    ORDER BY expires_at LIMIT most FOR UPDATE SKIP LOCKED);
  RETURN reply(to_json(number), e);
END $$;

-- Remove idle sessions that have no task to expire; look at the others later again.
CREATE OR REPLACE FUNCTION check_sessions(ns text, now float8, older float8, most bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  s record;
  busy boolean;
BEGIN
  FOR s IN SELECT session_id, touched_at FROM sessions WHERE namespace = ns
    AND checked_at < older ORDER BY checked_at LIMIT most
  LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(session_key(ns, s.session_id));
    busy := EXISTS (SELECT 1 FROM tasks WHERE namespace || '' = ns AND session_id = s.session_id);
    IF busy OR s.touched_at >= older THEN
      UPDATE sessions SET checked_at = CASE WHEN busy THEN now ELSE s.touched_at END
        WHERE namespace || '' = ns AND session_id = s.session_id;
    ELSE
      PERFORM delete_idle(ns, s.session_id, older);
    END IF;
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION delete_idle(ns text, session text, older float8) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM sessions s WHERE namespace || '' = ns AND session_id = session AND touched_at < older
    AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.namespace || '' = ns AND t.session_id = session);
  IF FOUND THEN
    DELETE FROM contexts WHERE namespace = ns AND session_id = session;
  END IF;
END $$;
