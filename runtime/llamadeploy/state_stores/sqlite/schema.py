"""The tables, and how a file of an older release becomes one of this release.

Top-level tables carry the namespace, because several deployments may share one file. The rows of
``inputs``, ``snapshots``, ``events``, ``inbound`` hang off ``tasks.id`` and are reached only
through a task, which has it. Large texts are not in ``tasks``: every change of state rewrites the
whole row.
"""

from __future__ import annotations

import sqlite3

from llamadeploy.exceptions import ConfigurationError

FIRST = """
CREATE TABLE tasks (
  id INTEGER PRIMARY KEY,
  namespace TEXT NOT NULL,
  task_id TEXT NOT NULL,
  session_id TEXT NOT NULL,
  service TEXT NOT NULL,             -- the service whose turn it is
  state TEXT NOT NULL,               -- a TaskState, or 'routing' between two services
  timer REAL,                        -- queued: last dispatch (NULL: not its turn yet);
                                     -- running: end of the lease; waiting: the deadline;
                                     -- routing: last dispatch; terminal: when it finished
  place INTEGER,                     -- order within (session, service); NULL: holds no place
  attempt INTEGER NOT NULL DEFAULT 0,
  dispatch INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  errors INTEGER NOT NULL DEFAULT 0,
  execution_id TEXT,
  worker_id TEXT,
  body_hash TEXT NOT NULL,
  max_retries INTEGER NOT NULL,
  retry_on_error INTEGER NOT NULL,
  queue_deadline REAL,
  wait_timeout REAL,
  orchestrated INTEGER NOT NULL,
  stage INTEGER NOT NULL DEFAULT 0,  -- how many services have delivered
  detached INTEGER NOT NULL,
  parent TEXT,
  ancestors TEXT NOT NULL,           -- JSON list
  created_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL,
  base_index INTEGER NOT NULL DEFAULT 0,
  bases TEXT NOT NULL DEFAULT '{}',  -- JSON: attempt -> base_index where that is not 0
  inbound_seq INTEGER NOT NULL DEFAULT 0,
  consumed_seq INTEGER NOT NULL DEFAULT 0,
  parked_attempt INTEGER NOT NULL DEFAULT 0,
  parked_at REAL,                    -- first park since an answer: wait_timeout counts from here
  parked_code_version TEXT NOT NULL DEFAULT '',
  wait_expired INTEGER NOT NULL DEFAULT 0,
  run_seconds REAL NOT NULL DEFAULT 0,
  event_count INTEGER NOT NULL DEFAULT 0,
  result TEXT,
  data TEXT                          -- JSON object
);
CREATE UNIQUE INDEX tasks_by_task_id ON tasks (namespace, task_id);
CREATE INDEX tasks_by_place ON tasks (namespace, session_id, service, place);
CREATE INDEX tasks_by_timer ON tasks (namespace, state, timer);
CREATE INDEX tasks_by_parent ON tasks (namespace, parent) WHERE parent IS NOT NULL;
CREATE INDEX tasks_by_queue_deadline ON tasks (namespace, queue_deadline)
  WHERE queue_deadline IS NOT NULL;

CREATE TABLE inputs (
  task INTEGER PRIMARY KEY,
  input TEXT NOT NULL,
  stage_input TEXT                   -- a custom orchestrator's input for the present stage
);
CREATE TABLE snapshots (task INTEGER PRIMARY KEY, snapshot TEXT NOT NULL);
CREATE TABLE events (
  task INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  idx INTEGER NOT NULL,
  type TEXT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (task, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_index ON events (task, attempt, idx);
CREATE TABLE inbound (
  task INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  event TEXT NOT NULL,
  PRIMARY KEY (task, seq)
) WITHOUT ROWID;

-- AUTOINCREMENT: a late outbox_done must never meet another row under its number.
CREATE TABLE outbox (
  row_id INTEGER PRIMARY KEY AUTOINCREMENT,
  namespace TEXT NOT NULL,
  task INTEGER NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  due REAL NOT NULL
);
CREATE INDEX outbox_by_due ON outbox (namespace, due);

CREATE TABLE sessions (
  namespace TEXT NOT NULL,
  session_id TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT '{}',  -- JSON object
  version INTEGER NOT NULL DEFAULT 0,
  touched_at REAL NOT NULL,          -- created, or state written
  checked_at REAL NOT NULL,          -- expire looked whether it is idle
  PRIMARY KEY (namespace, session_id)
);
CREATE INDEX sessions_by_check ON sessions (namespace, checked_at);
CREATE TABLE contexts (
  namespace TEXT NOT NULL,
  session_id TEXT NOT NULL,
  service TEXT NOT NULL,
  context TEXT NOT NULL,
  PRIMARY KEY (namespace, session_id, service)
);

CREATE TABLE services (
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  definition TEXT NOT NULL,          -- JSON object
  PRIMARY KEY (namespace, name)
);
CREATE TABLE dead_letters (
  letter_id INTEGER PRIMARY KEY AUTOINCREMENT,
  namespace TEXT NOT NULL,
  created_at REAL NOT NULL,
  reason TEXT NOT NULL,
  service TEXT NOT NULL,
  task_id TEXT,
  message TEXT
);
CREATE INDEX dead_letters_by_time ON dead_letters (namespace, created_at);
-- 63 bits of a hash of (namespace, task id): millions must cost little.
CREATE TABLE tombstones (hash INTEGER PRIMARY KEY, expires_at REAL NOT NULL);
CREATE INDEX tombstones_by_time ON tombstones (expires_at);
"""

RESIDENT = """
ALTER TABLE tasks ADD COLUMN resident TEXT;  -- why the attempt resident_attempt waits in memory
ALTER TABLE tasks ADD COLUMN resident_attempt INTEGER NOT NULL DEFAULT 0;
"""

CUSTODY = """
ALTER TABLE tasks ADD COLUMN custody_attempt INTEGER NOT NULL DEFAULT 0;  -- acknowledged early
"""

FOLLOWERS = """
ALTER TABLE tasks ADD COLUMN followers INTEGER NOT NULL DEFAULT 0;  -- runs that did not lead
"""

MIGRATIONS: tuple[str, ...] = (FIRST, RESIDENT, CUSTODY, FOLLOWERS)
"""Script ``n`` brings a file of version ``n`` to version ``n + 1``; append, never change one."""

VERSION = len(MIGRATIONS)


def read_version(connection: sqlite3.Connection) -> int:
    """The schema version of the file; 0 where it is empty.

    Raises:
        ConfigurationError: the file holds another program's tables.
    """
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "schema_version" not in names:
        if names:
            raise ConfigurationError(
                f"it is a database of something else (it has a table or index '{min(names)}'); "
                "name a new file"
            )
        return 0
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    return int(row[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to ``VERSION``, in one transaction; another process may do the same.

    Raises:
        ConfigurationError: the file was written by a newer release, or is not ours.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = read_version(connection)
        if version > VERSION:
            raise ConfigurationError(
                f"its schema version {version} is newer than {VERSION}, the newest that this "
                "release knows; run the newer release, or name another file"
            )
        if version == 0:
            connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            connection.execute("INSERT INTO schema_version VALUES (0)")
        for script in MIGRATIONS[version:]:
            for statement in statements(script):
                connection.execute(statement)
        if version < VERSION:
            connection.execute("UPDATE schema_version SET version = ?", (VERSION,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def statements(script: str) -> list[str]:
    """The statements of a script, each ending with its line (``executescript`` would commit)."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found
