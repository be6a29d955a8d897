"""What the servers that the operator runs have in common: one pod, one volume, one Service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamadeploy.spec.manifest import Storage
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.plain import without_none
from llamadeploy_operator.desired.plan import AMQP_PORT, REDIS_PORT, Plan
from llamadeploy_operator.desired.pod import PodPlan, ca_volumes, pod_template
from llamadeploy_operator.desired.service import service

CONFIG_FOLDER = "/etc/llamadeploy/server"


@dataclass(frozen=True, slots=True)
class ManagedServer:
    """A broker or store.

    Attributes:
        name: of StatefulSet and Service.
        component: ``names.QUEUE`` or ``names.STATE_STORE``.
        container: runs it; its volume is ``data``.
        config_key, more_config: keys of the ConfigMap that are mounted at :data:`CONFIG_FOLDER`.
    """

    name: str
    component: str
    container: Manifest
    storage: Storage
    config_key: str
    more_config: Sequence[str] = ()
    volumes: Sequence[Manifest] = ()
    grace: int = 60


def server_stateful_set(context: DeploymentContext, server: ManagedServer) -> Manifest:
    """The StatefulSet. Its volume outlives it under ``deletionPolicy: Retain``, and is found again
    by its name."""
    plan = Plan.of(context, context.defaults)
    selector = names.selector(context.owner.name, server.component)
    keep = "Retain" if plan.retained else "Delete"
    return child(
        "apps/v1",
        "StatefulSet",
        server.name,
        context.owner,
        of_deployment(context, server.component),
        spec={
            "replicas": 1,
            "revisionHistoryLimit": 3,
            "serviceName": server.name,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": keep, "whenScaled": "Retain"},
            "selector": {"matchLabels": selector},
            "template": _template(context, server, selector),
            "volumeClaimTemplates": [_claim(selector, server.storage)],
        },
    )


def queue_service(context: DeploymentContext) -> Manifest | None:
    """The managed broker's Service."""
    plan = Plan.of(context, context.defaults)
    if not plan.managed_queue:
        return None
    ports = {"amqp": AMQP_PORT} if plan.queue.type == "rabbitmq" else {"redis": REDIS_PORT}
    return service(context, names.queue(context.owner.name), names.QUEUE, ports)


def store_service(context: DeploymentContext) -> Manifest | None:
    """The managed state store's Service."""
    if not Plan.of(context, context.defaults).managed_store:
        return None
    name = names.state_store(context.owner.name)
    return service(context, name, names.STATE_STORE, {"redis": REDIS_PORT})


def _template(
    context: DeploymentContext, server: ManagedServer, selector: dict[str, str]
) -> Manifest:
    keys = [server.config_key, *server.more_config]
    config = {
        "name": "server-config",
        "configMap": {
            "name": names.config(context.owner.name),
            "items": [{"key": key, "path": key} for key in keys],
        },
    }
    container = {
        **server.container,
        "volumeMounts": [
            *server.container["volumeMounts"],
            {"name": "server-config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        ],
    }
    return pod_template(
        PodPlan(
            labels=of_deployment(context, server.component),
            selector=selector,
            service_account=server.name,
            container=container,
            revision=context.pin.revision,
            volumes=[config, *server.volumes, *ca_volumes(context.defaults, context.owner.name)],
            spread=False,
            grace=server.grace,
        ),
        context.defaults,
    )


def _claim(labels: dict[str, str], storage: Storage) -> Manifest:
    # The labels here can never change, so only those that never do. By the last of them the
    # operator selects what it watches.
    labels = {**labels, names.MANAGED_BY_LABEL: names.MANAGER}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": labels},
        "spec": without_none(
            {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": storage.storage_class_name,
                "resources": {"requests": {"storage": storage.size}},
            }
        ),
    }
