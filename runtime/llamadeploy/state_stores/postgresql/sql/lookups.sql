-- Version 7. Indexes that begin with what a task or session is looked up by. Every index that begins
-- with the namespace can serve a lookup in it, and for a table that was small when the plan was made
-- the planner takes any of them, such as one that reads the whole namespace for each lookup. So the
-- statements also hide the namespace from indexes: `namespace || '' = ns`.
CREATE UNIQUE INDEX tasks_by_id ON tasks (task_id, namespace);
DROP INDEX tasks_by_task_id;
CREATE INDEX tasks_by_session ON tasks (session_id, service, place);
DROP INDEX tasks_by_place;
ALTER TABLE sessions DROP CONSTRAINT sessions_pkey, ADD PRIMARY KEY (session_id, namespace);
