"""Removing everything of one namespace."""

from __future__ import annotations

from llamadeploy.state_stores.postgresql.connection import Connection

STEP = 500
"""Tasks per transaction, so that nobody waits long behind it."""

_TASKS = """
WITH gone AS (
  DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE namespace = $1 LIMIT $2) RETURNING id
),
i AS (DELETE FROM inputs WHERE task IN (SELECT id FROM gone)),
s AS (DELETE FROM snapshots WHERE task IN (SELECT id FROM gone)),
e AS (DELETE FROM events WHERE task IN (SELECT id FROM gone)),
b AS (DELETE FROM inbound WHERE task IN (SELECT id FROM gone)),
o AS (DELETE FROM outbox WHERE task IN (SELECT id FROM gone))
SELECT count(*) FROM gone
"""

_TABLES = ("outbox", "contexts", "sessions", "services", "dead_letters")


async def purge(connection: Connection, namespace: str) -> int:
    """See ``StateStore.purge``."""
    total = 0
    while removed := await connection.fetchval(_TASKS, namespace, STEP):
        total += int(removed)
    for table in _TABLES:
        await connection.execute(
            f"DELETE FROM {table} WHERE namespace = $1",  # noqa: S608 - a name of ours
            namespace,
        )
    return total
