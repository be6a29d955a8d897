"""The registered services."""

from __future__ import annotations

from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import ServiceDefinition


def put(tx: Tx, service: ServiceDefinition) -> None:
    """Insert or replace."""
    tx.conn.execute(
        "INSERT OR REPLACE INTO services (namespace, name, definition) VALUES (?, ?, ?)",
        (tx.namespace, service.service_name, service.model_dump_json()),
    )


def get(tx: Tx, name: str) -> ServiceDefinition | None:
    """The service, or ``None``."""
    row = tx.conn.execute(
        "SELECT definition FROM services WHERE namespace = ? AND name = ?", (tx.namespace, name)
    ).fetchone()
    return None if row is None else ServiceDefinition.model_validate_json(row[0])


def list_all(tx: Tx) -> dict[str, ServiceDefinition]:
    """By name, in the order of the names."""
    rows = tx.conn.execute(
        "SELECT name, definition FROM services WHERE namespace = ? ORDER BY name", (tx.namespace,)
    )
    return {name: ServiceDefinition.model_validate_json(text) for name, text in rows}


def delete(tx: Tx, name: str) -> None:
    """Idempotent."""
    tx.conn.execute("DELETE FROM services WHERE namespace = ? AND name = ?", (tx.namespace, name))
