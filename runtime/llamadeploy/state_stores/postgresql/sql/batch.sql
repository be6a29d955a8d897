-- Several operations in one transaction: one round trip and one flush to disk for all of them.
-- Where one fails, all are undone, and the client does them one by one.

CREATE OR REPLACE FUNCTION run_batch(ns text, clock float8, names text[], requests jsonb[])
RETURNS SETOF json LANGUAGE plpgsql AS $$
DECLARE key bigint;
BEGIN
  -- All locks first, in the order of their keys, as whoever needs several takes them.
  FOR key IN
    SELECT session_key(ns, r->>'session_id') FROM unnest(names, requests) AS o (n, r)
      WHERE n = 'create_task'
    UNION
    SELECT session_key(ns, t.session_id) FROM unnest(names, requests) AS o (n, r)
      JOIN tasks t ON t.namespace = ns
        AND t.task_id = COALESCE(r->>'task_id', r->'key'->>'task_id')
      WHERE n IN ('start', 'finish', 'append_events', 'park', 'release')
    ORDER BY 1
  LOOP
    PERFORM pg_advisory_xact_lock(key);
  END LOOP;
  FOR i IN 1 .. cardinality(names) LOOP
    RETURN NEXT CASE names[i]
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
    END;
  END LOOP;
END $$;
