"""The ConfigMap ``<name>-config``: configurations of managed servers, and the CA bundle."""

from __future__ import annotations

from llamadeploy_operator import names
from llamadeploy_operator.desired import rabbitmq, redis
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.plan import Plan


def config_map(context: DeploymentContext) -> Manifest | None:
    """``None`` where there is nothing to configure."""
    plan = Plan.of(context, context.defaults)
    data = {}
    if plan.managed_store or (plan.managed_queue and plan.queue.type == "redis"):
        data[redis.REDIS_CONF] = redis.CONFIG
    if plan.managed_queue and plan.queue.type == "rabbitmq":
        data[rabbitmq.RABBITMQ_CONF] = rabbitmq.CONFIG
        data[rabbitmq.ENABLED_PLUGINS] = rabbitmq.PLUGINS
    if context.defaults.ca_bundle:
        data["ca.crt"] = context.defaults.ca_bundle
    if not data:
        return None
    return child(
        "v1",
        "ConfigMap",
        names.config(context.owner.name),
        context.owner,
        of_deployment(context, names.CONFIG),
        data=data,
    )
