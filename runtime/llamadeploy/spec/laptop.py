"""What a deployment asks for that a laptop cannot give."""

from __future__ import annotations

from collections.abc import Iterator

from llamadeploy.spec.deployment import ComponentSpec, DeploymentSpec, UiSpec
from llamadeploy.spec.manifest import SOLACE_CURE
from llamadeploy.spec.problems import SpecProblem

STORES = ("memory", "sqlite", "postgres", "postgresql", "redis", "rediss", "unix")
"""Schemes of the state stores that are there."""

QUEUES = ("simple", "rabbitmq", "redis")
"""Types of the message queues that are there."""

_LATER = "not available yet in this release"


def unsupported_on_laptop(spec: DeploymentSpec) -> list[SpecProblem]:
    """A problem for each part of ``spec`` that is understood but cannot be run here.

    Fields are named as in a deployment file.
    """
    return list(_problems(spec))


def _problems(spec: DeploymentSpec) -> Iterator[SpecProblem]:
    kind = spec.message_queue.type
    if kind == "solace":
        wrong = "solace is not supported, and will not be"
        yield SpecProblem("message-queue.type", wrong, SOLACE_CURE)
    elif kind not in QUEUES:
        yield SpecProblem(
            "message-queue.type", f"{kind} is {_LATER}", "use simple, redis or rabbitmq"
        )
    uri = spec.control_plane.state_store_uri
    scheme = (uri or "memory://").partition("://")[0]
    if scheme not in STORES:
        right = "use sqlite:///path, redis://host, postgresql://host/database or memory://"
        yield SpecProblem("control-plane.state_store_uri", f"{scheme} is {_LATER}", right)
    if spec.ui is not None:
        yield from _component("ui", spec.ui)
    for name, service in spec.services.items():
        yield from _component(f"services.{name}", service)


def _component(at: str, item: ComponentSpec) -> Iterator[SpecProblem]:
    if item.source.type == "image":
        wrong = "an image source needs a cluster: code in a container image cannot be run here"
        yield SpecProblem(f"{at}.source", wrong, "use a local, git or configMap source on a laptop")
    if isinstance(item, UiSpec):
        if item.python_dependencies:
            wrong = "a user interface runs no Python"
            yield SpecProblem(f"{at}.python-dependencies", wrong, "give them to a service")
        return
    if item.ts_dependencies:
        wrong = "a service runs no JavaScript"
        yield SpecProblem(f"{at}.ts-dependencies", wrong, "give them to the ui")
