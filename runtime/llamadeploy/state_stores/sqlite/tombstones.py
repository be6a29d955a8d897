"""What is left of a forgotten task: enough to know that its id was used."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from llamadeploy.state_stores.sqlite.transaction import Tx

TOMBSTONE_SECONDS = 7 * 86400.0
"""How long a forgotten id is remembered: longer than any queue redelivers a message."""


def key(namespace: str, task_id: str) -> int:
    """63 bits that stand for the task."""
    text = f"{namespace}\0{task_id}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


def bury(tx: Tx, task_ids: Iterable[str]) -> None:
    """Remember forgotten tasks."""
    tx.conn.executemany(
        "INSERT OR REPLACE INTO tombstones (hash, expires_at) VALUES (?, ?)",
        [(key(tx.namespace, task_id), tx.now + TOMBSTONE_SECONDS) for task_id in task_ids],
    )


def is_buried(tx: Tx, task_id: str) -> bool:
    """Whether the task existed and was forgotten."""
    row = tx.conn.execute(
        "SELECT 1 FROM tombstones WHERE hash = ?", (key(tx.namespace, task_id),)
    ).fetchone()
    return row is not None


def purge(tx: Tx, limit: int) -> None:
    """Drop up to ``limit`` tombstones whose time is over."""
    tx.conn.execute(
        "DELETE FROM tombstones WHERE hash IN"
        " (SELECT hash FROM tombstones WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
        (tx.now, limit),
    )
