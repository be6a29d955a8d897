"""NetworkPolicies: who may reach what. Ingress only: where pods may go is the user's to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamadeploy.settings import HTTP_PORT, METRICS_PORT, QUEUE_PORT
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child, of_deployment
from llamadeploy_operator.desired.plan import AMQP_PORT, REDIS_PORT, Plan

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_METRICS = {"ports": [{"protocol": "TCP", "port": METRICS_PORT}]}
"""Metrics, and probes of meshes, from anywhere: there is nothing confidential in them."""


def network_policies(context: DeploymentContext) -> Iterator[Manifest]:
    """One for each component that runs."""
    plan, owner = Plan.of(context, context.defaults), context.owner.name
    yield _policy(context, names.control_plane(owner), names.CONTROL_PLANE, _control_plane(plan))
    yield _policy(context, names.workers(owner), names.WORKER, [_METRICS])
    if plan.orchestrators:
        yield _policy(context, names.orchestrator(owner), names.ORCHESTRATOR, [_METRICS])
    if context.spec.ui is not None:
        rules = [{"from": _clients(plan), "ports": _ports(plan.ui_port)}]
        yield _policy(context, names.ui(owner), names.UI, rules)
    if plan.managed_queue:
        port = AMQP_PORT if plan.queue.type == "rabbitmq" else REDIS_PORT
        yield _policy(context, names.queue(owner), names.QUEUE, _server(plan, port))
    if plan.managed_store:
        rules = _server(plan, REDIS_PORT)
        yield _policy(context, names.state_store(owner), names.STATE_STORE, rules)


def _policy(
    context: DeploymentContext, name: str, component: str, rules: list[dict[str, Any]]
) -> Manifest:
    # Workers are those of every WorkflowService of the Deployment.
    selector = names.selector(context.owner.name, component)
    return child(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        name,
        context.owner,
        of_deployment(context, component),
        spec={
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    )


def _control_plane(plan: Plan) -> list[dict[str, Any]]:
    rules = [{"from": [*_clients(plan), _operator(plan)], "ports": _ports(HTTP_PORT)}]
    if plan.queue.type == "simple":
        rules.append({"from": [_own_pods(plan)], "ports": _ports(QUEUE_PORT)})
    return [*rules, _METRICS]


def _server(plan: Plan, port: int) -> list[dict[str, Any]]:
    """A broker or store is for the Deployment's own pods."""
    return [{"from": [_own_pods(plan)], "ports": _ports(port)}]


def _own_pods(plan: Plan) -> dict[str, Any]:
    labels = {names.DEPLOYMENT_LABEL: names.label_value(plan.owner.name)}
    return {"podSelector": {"matchLabels": labels}}


def _clients(plan: Plan) -> list[dict[str, Any]]:
    """Any pod of the same namespace, and of the listed ones."""
    namespaces = sorted(plan.defaults.admitted_namespaces)
    listed = [
        {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: each}}} for each in namespaces
    ]
    return [{"podSelector": {}}, *listed]


def _operator(plan: Plan) -> dict[str, Any]:
    return {
        "namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: plan.defaults.operator_namespace}},
        "podSelector": {"matchLabels": dict(plan.defaults.operator_labels)},
    }


def _ports(number: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": number}]
