"""A single Redis that the operator runs, as message queue or as state store."""

from __future__ import annotations

from llamadeploy.spec.manifest import Storage
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.env import from_secret
from llamadeploy_operator.desired.managed import CONFIG_FOLDER, ManagedServer, server_stateful_set
from llamadeploy_operator.desired.plan import REDIS_PORT, Plan
from llamadeploy_operator.desired.pod import port, resources

REDIS_CONF = "redis.conf"
DATA = "/data"

CONFIG = f"""\
# Written by the operator.
bind * -::*
port {REDIS_PORT}
dir {DATA}
# A write is answered when it is on the disk.
appendonly yes
appendfsync always
save ""
# Full means an error for the writer; nothing is ever thrown away.
maxmemory 768mb
maxmemory-policy noeviction
tcp-keepalive 60
# The password; written at the start, from the environment.
include /tmp/auth.conf
"""

_START = (
    "umask 077; "
    'printf "requirepass %s\\n" "$REDISCLI_AUTH" > /tmp/auth.conf; '
    f"exec redis-server {CONFIG_FOLDER}/{REDIS_CONF}"
)
_PING = ["sh", "-c", f"redis-cli -p {REDIS_PORT} ping | grep -qx PONG"]


def redis_queue(context: DeploymentContext) -> Manifest | None:
    """The StatefulSet of a managed Redis queue."""
    plan = Plan.of(context, context.defaults)
    if not plan.managed_queue or plan.queue.type != "redis":
        return None
    name = names.queue(context.owner.name)
    return _redis(context, name, names.QUEUE, names.QUEUE_PASSWORD, plan.queue_storage)


def redis_store(context: DeploymentContext) -> Manifest | None:
    """The StatefulSet of a managed state store."""
    plan = Plan.of(context, context.defaults)
    if not plan.managed_store:
        return None
    name = names.state_store(context.owner.name)
    return _redis(context, name, names.STATE_STORE, names.STORE_PASSWORD, plan.store_storage)


def _redis(
    context: DeploymentContext, name: str, component: str, password: str, storage: Storage
) -> Manifest:
    internal = names.internal_secret(context.owner.name)
    container = {
        "name": "redis",
        "image": context.pin.redis_image,
        "command": ["sh", "-c", _START],
        "ports": [port("redis", REDIS_PORT)],
        "env": [from_secret("REDISCLI_AUTH", internal, password)],
        "resources": resources("100m", "256Mi", "1Gi"),
        "volumeMounts": [{"name": "data", "mountPath": DATA}],
        # Loading a large file takes its time; a probe that gives up would begin it again.
        "startupProbe": {**_probe(), "periodSeconds": 2, "failureThreshold": 900},
        "livenessProbe": {**_probe(), "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**_probe(), "periodSeconds": 5, "failureThreshold": 2},
    }
    server = ManagedServer(name, component, container, storage, config_key=REDIS_CONF)
    return server_stateful_set(context, server)


def _probe() -> Manifest:
    return {"exec": {"command": _PING}, "timeoutSeconds": 5}
