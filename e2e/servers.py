"""Brokers and stores of the user's own, which the operator knows nothing of."""

from __future__ import annotations

from e2e.space import Space

RABBITMQ_CONF = "loopback_users = none\nlog.console = true\n"
_RABBITMQ = (
    "printf '%s' \"$CONF\" > /tmp/rabbitmq.conf; "
    "export HOME=/tmp RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_MNESIA_BASE=/tmp/mnesia "
    "RABBITMQ_LOG_BASE=/tmp RABBITMQ_CONFIG_FILE=/tmp/rabbitmq.conf RABBITMQ_LOGS=-; "
    "exec rabbitmq-server"
)
POSTGRESQL_URI = "postgresql://app:not-a-secret@postgresql:5432/postgres"
_POSTGRESQL = (
    "printf not-a-secret > /tmp/password; "
    "initdb -D /tmp/data -U app -E UTF8 -A scram-sha-256 --pwfile=/tmp/password -N > /tmp/log; "
    "echo 'host all all all scram-sha-256' >> /tmp/data/pg_hba.conf; "
    "exec postgres -D /tmp/data -h 0.0.0.0 -k /tmp -c fsync=off"
)


def rabbitmq(space: Space, image: str) -> str:
    """A RabbitMQ behind the Service ``rabbitmq``; gives its URL."""
    space.run_pod(
        "rabbitmq", image, ["sh", "-c", _RABBITMQ],
        env=[{"name": "CONF", "value": RABBITMQ_CONF}],
        readinessProbe={"tcpSocket": {"port": 5672}, "periodSeconds": 1, "timeoutSeconds": 10},
    )  # fmt: skip
    space.expose("rabbitmq", 5672)
    return "amqp://guest:guest@rabbitmq:5672/"


def postgresql(space: Space, image: str) -> None:
    """A PostgreSQL behind the Service of that name; see :data:`POSTGRESQL_URI`."""
    ready = ["pg_isready", "-h", "127.0.0.1", "-U", "app"]
    space.run_pod(
        "postgresql", image, ["sh", "-c", _POSTGRESQL],
        readinessProbe={"exec": {"command": ready}, "periodSeconds": 2, "timeoutSeconds": 10},
    )  # fmt: skip
    space.expose("postgresql", 5432)
