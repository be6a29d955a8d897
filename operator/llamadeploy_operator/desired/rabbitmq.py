"""A single RabbitMQ that the operator runs."""

from __future__ import annotations

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.env import BROKER_USER, from_secret
from llamadeploy_operator.desired.managed import CONFIG_FOLDER, ManagedServer, server_stateful_set
from llamadeploy_operator.desired.plan import AMQP_PORT, Plan
from llamadeploy_operator.desired.pod import HOME, TMPDIR, port, resources

RABBITMQ_CONF = "rabbitmq.conf"
ENABLED_PLUGINS = "enabled_plugins"
DATA = "/var/lib/rabbitmq"
METRICS_PORT = 15692
COOKIE_FOLDER = "/etc/llamadeploy/cookie"

CONFIG = f"""\
# Written by the operator.
listeners.tcp.default = {AMQP_PORT}
# There is one user, whose password is a Secret's; it comes from other pods.
loopback_users = none
log.console = true
log.console.level = info
# Publishers are stopped before the node runs out of either.
vm_memory_high_watermark.relative = 0.6
disk_free_limit.absolute = 256MB
prometheus.tcp.port = {METRICS_PORT}
"""

PLUGINS = "[rabbitmq_prometheus].\n"

_START = (
    # Erlang takes no cookie that others can read; a mounted Secret is readable by its group.
    'umask 077; rm -f "$HOME/.erlang.cookie"; '
    f'cat {COOKIE_FOLDER}/cookie > "$HOME/.erlang.cookie"; '
    "exec rabbitmq-server"
)


def rabbitmq(context: DeploymentContext) -> Manifest | None:
    """The StatefulSet of a managed RabbitMQ."""
    plan = Plan.of(context, context.defaults)
    if not plan.managed_queue or plan.queue.type != "rabbitmq":
        return None
    internal = names.internal_secret(context.owner.name)
    container = {
        "name": "rabbitmq",
        "image": context.pin.rabbitmq_image,
        "command": ["sh", "-c", _START],
        "ports": [port("amqp", AMQP_PORT), port("metrics", METRICS_PORT)],
        "env": _env(internal),
        "resources": resources("200m", "512Mi", "1Gi"),
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "cookie", "mountPath": COOKIE_FOLDER, "readOnly": True},
        ],
        # Replaying what is on the disk takes its time; a probe that gives up would begin it again.
        "startupProbe": {**_probe(), "periodSeconds": 2, "failureThreshold": 900},
        "livenessProbe": {**_probe(), "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**_probe(), "periodSeconds": 5, "failureThreshold": 2},
    }
    items = [{"key": names.QUEUE_COOKIE, "path": "cookie"}]
    cookie = {"secretName": internal, "items": items, "defaultMode": 0o440}
    server = ManagedServer(
        names.queue(context.owner.name),
        names.QUEUE,
        container,
        plan.queue_storage,
        config_key=RABBITMQ_CONF,
        more_config=(ENABLED_PLUGINS,),
        volumes=({"name": "cookie", "secret": cookie},),
        grace=120,
    )
    return server_stateful_set(context, server)


def _env(internal: str) -> list[Manifest]:
    plain = {
        # The name is a part of where data is kept: it must not follow the pod's.
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_MNESIA_BASE": f"{DATA}/mnesia",
        "RABBITMQ_CONFIG_FILE": f"{CONFIG_FOLDER}/{RABBITMQ_CONF}",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{CONFIG_FOLDER}/{ENABLED_PLUGINS}",
        "RABBITMQ_LOGS": "-",
        # Releases before 4.0 keep a second log in a file, and crash dumps go there too.
        "RABBITMQ_LOG_BASE": TMPDIR,
        "RABBITMQ_DEFAULT_USER": BROKER_USER,
        "HOME": HOME,
    }
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        from_secret("RABBITMQ_DEFAULT_PASS", internal, names.QUEUE_PASSWORD),
    ]


def _probe() -> Manifest:
    # Not rabbitmq-diagnostics: each run of it starts an Erlang of its own.
    return {"tcpSocket": {"port": "amqp"}, "timeoutSeconds": 5}
