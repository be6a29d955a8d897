"""What is understood, but cannot be run on a laptop: one clear problem each."""

from __future__ import annotations

import pytest

from llamadeploy.spec import DeploymentSpec, load_deployment, unsupported_on_laptop
from llamadeploy.spec.deployment import ControlPlaneSpec, QueueSpec, ServiceSpec, SourceSpec, UiSpec

LOCAL = SourceSpec(type="local", name="src")


def service(**fields) -> dict[str, ServiceSpec]:
    return {"a": ServiceSpec(**{"name": "a", "path": "w:w", "source": LOCAL, **fields})}


@pytest.mark.parametrize(
    "spec",
    [
        DeploymentSpec(name="d"),
        DeploymentSpec(name="d", services=service(replicas=3, env={"A": "b"}, env_files=[".env"])),
        DeploymentSpec(
            name="d", services=service(source=SourceSpec(type="configmap", name="c", files={}))
        ),
        DeploymentSpec(name="d", control_plane=ControlPlaneSpec(state_store_uri="memory://")),
        DeploymentSpec(name="d", control_plane=ControlPlaneSpec(state_store_uri="sqlite:///x.db")),
        DeploymentSpec(
            name="d",
            control_plane=ControlPlaneSpec(state_store_uri="redis://h"),
            message_queue=QueueSpec(type="redis"),
        ),
        DeploymentSpec(
            name="d",
            control_plane=ControlPlaneSpec(state_store_uri="postgresql://h/d"),
            message_queue=QueueSpec(type="rabbitmq"),
        ),
    ],
)
def test_what_runs(spec):
    assert unsupported_on_laptop(spec) == []


@pytest.mark.parametrize("kind", ["kafka", "aws"])
def test_brokers(kind):
    (problem,) = unsupported_on_laptop(DeploymentSpec(name="d", message_queue=QueueSpec(type=kind)))
    assert str(problem) == (
        f"message-queue.type: {kind} is not available yet in this release;"
        " use simple, redis or rabbitmq"
    )


def test_solace_is_refused_for_good():
    (problem,) = unsupported_on_laptop(
        DeploymentSpec(name="d", message_queue=QueueSpec(type="solace"))
    )
    assert str(problem) == (
        "message-queue.type: solace is not supported, and will not be; use redis, rabbitmq, kafka"
        " or aws, or simple without a broker"
    )


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_stores(scheme):
    (problem,) = unsupported_on_laptop(
        DeploymentSpec(
            name="d", control_plane=ControlPlaneSpec(state_store_uri=f"{scheme}://u:s3cr3t@h")
        )
    )
    assert str(problem) == (
        f"control-plane.state_store_uri: {scheme} is not available yet in this release; use"
        " sqlite:///path, redis://host, postgresql://host/database or memory://"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"source": SourceSpec(type="image", image="r/x:1")},
            "services.a.source: an image source needs a cluster: code in a container image cannot"
            " be run here; use a local, git or configMap source on a laptop",
        ),
        (
            {"ts_dependencies": {"react": "18"}},
            "services.a.ts-dependencies: a service runs no JavaScript; give them to the ui",
        ),
    ],
)
def test_services(fields, expected):
    spec = DeploymentSpec(name="d", services=service(**fields))
    assert [str(problem) for problem in unsupported_on_laptop(spec)] == [expected]


def test_git_and_python_dependencies_are_there():
    source = SourceSpec(type="git", url="https://h/r")
    spec = DeploymentSpec(name="d", services=service(source=source, python_dependencies=["x"]))
    assert unsupported_on_laptop(spec) == []


def test_a_user_interface():
    spec = DeploymentSpec(
        name="d", ui=UiSpec(name="ui", source=LOCAL, ts_dependencies={"left-pad": "^1.3.0"})
    )
    assert unsupported_on_laptop(spec) == []


def test_a_user_interface_without_a_place_or_with_python():
    ui = UiSpec(name="ui", source=SourceSpec(type="image"), python_dependencies=["httpx"])
    assert [str(problem) for problem in unsupported_on_laptop(DeploymentSpec(name="d", ui=ui))] == [
        "ui.source: an image source needs a cluster: code in a container image cannot be run here;"
        " use a local, git or configMap source on a laptop",
        "ui.python-dependencies: a user interface runs no Python; give them to a service",
    ]


def test_a_managed_broker_and_store_are_no_problem():
    text = """
apiVersion: llamadeploy.io/v1alpha1
kind: Deployment
metadata: {name: q}
spec:
  controlPlane: {stateStore: {managed: {}}}
  messageQueue: {type: redis, managed: {}}
"""
    spec = load_deployment(text)
    assert unsupported_on_laptop(spec) == []
    assert spec.ignored == ["spec.controlPlane.stateStore.managed", "spec.messageQueue.managed"]
