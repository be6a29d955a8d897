"""Objects that the schema takes and refuses; the API server and a laptop are asked the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

Json = dict[str, Any]
GROUP = "llamadeploy.io"
PLURALS = {"Deployment": "llamadeployments", "WorkflowService": "workflowservices"}

SERVICE = {"name": "echo", "source": {"configMap": {"name": "code"}}, "path": "workflow:w"}
DEPLOYMENT = {"services": [SERVICE]}
WFS = {
    "deploymentRef": {"name": "main"},
    "source": {"configMap": {"name": "code"}},
    "path": "workflow:w",
}
REDIS = {"type": "redis", "redis": {"url": "redis://h"}}
SHARED = {"stateStore": {"uri": "redis://h"}}


def service(**changes: Any) -> Json:
    """A Deployment's spec with one service."""
    return {"services": [changed(SERVICE, changes)]}


def changed(base: Json, changes: Json) -> Json:
    """``base`` with other keys; None removes one."""
    merged = copy.deepcopy(base) | changes
    return {key: value for key, value in merged.items() if value is not None}


@dataclass(frozen=True)
class Case:
    """One rule: what it takes, what it refuses, and how it says so.

    Attributes:
        good, bad: specs; of a transition rule ``bad`` is what ``good`` may not become.
        message: of the API server.
    """

    name: str
    good: Json
    bad: Json
    message: str
    kind: str = "Deployment"
    good_after: Json | None = field(default=None)


def queue(**changes: Any) -> Json:
    return {**DEPLOYMENT, "messageQueue": changes}


def env(**variable: Any) -> Json:
    return service(env=[{"name": "A", **variable}])


def scaled(kind: str = "Deployment", **changes: Any) -> Json:
    """A spec with one service that is scaled; None removes a key."""
    autoscaling = changed({"maxReplicas": 5, "targetBacklog": 4}, changes)
    return (
        service(autoscaling=autoscaling)
        if kind == "Deployment"
        else {**WFS, "autoscaling": autoscaling}
    )


def rules(**given: Any) -> Json:
    return scaled(behavior={"scaleDown": given})


SCHEDULE = {"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 3}


SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}

RULES = [
    Case("default service", {**DEPLOYMENT, "defaultService": "echo"},
         {**DEPLOYMENT, "defaultService": "ecco"},
         "there is no service ecco; write the name of one of services"),
    Case("one control plane of a simple queue", {**DEPLOYMENT, "controlPlane": {"replicas": 1}},
         {**DEPLOYMENT, "controlPlane": {**SHARED, "replicas": 2}},
         "write controlPlane.replicas: 1, or messageQueue.type redis"),
    Case("no orchestrator of a simple queue", queue(type="simple"),
         {**queue(type="simple"), "orchestrator": {}, "controlPlane": SHARED},
         "remove orchestrator, or write messageQueue.type"),
    Case("one control plane of a memory store",
         {**queue(**REDIS), "controlPlane": {**SHARED, "replicas": 2}},
         {**queue(**REDIS), "controlPlane": {"replicas": 2}},
         "write controlPlane.replicas: 1, or controlPlane.stateStore"),
    Case("one control plane of a sqlite store",
         {**queue(**REDIS), "controlPlane": {"replicas": 1}},
         {**queue(**REDIS), "controlPlane": {"replicas": 2, "stateStore": {"uri": "sqlite:///f"}}},
         "state in memory or SQLite belongs to the one control plane"),
    Case("no orchestrator of a memory store",
         {**queue(**REDIS), "orchestrator": {"replicas": 2},
          "controlPlane": {"stateStore": {"managed": {}}}},
         {**queue(**REDIS), "orchestrator": {"replicas": 2}},
         "remove orchestrator, or write controlPlane.stateStore"),
    *(Case(f"section {kind}", queue(type=kind, **{kind: {} if kind in ("simple", "aws") else
                                                  {"url": "redis://h"}}),
           queue(type="aws" if kind == "simple" else "simple",
                 **{kind: {} if kind in ("simple", "aws") else {"url": "redis://h"}}),
           f"settings of {kind} need type: {kind}")
      for kind in ("simple", "redis", "rabbitmq", "kafka", "aws")),
    Case("managed kafka", queue(type="rabbitmq", managed={}),
         queue(type="kafka", managed={}, kafka={"url": "h:1"}),
         "managed can be had for redis and rabbitmq"),
    *(Case(f"{kind} managed and addressed", queue(type=kind, managed={}, **{kind: {}}),
           queue(type=kind, managed={}, **{kind: {"url": "x://h"}}),
           f"write either managed, or {kind}.url, or {kind}.urlFrom")
      for kind in ("redis", "rabbitmq")),
    *(Case(f"{kind} without an address", queue(type=kind, **{kind: {"urlFrom": SECRET}}),
           queue(type=kind), f"{kind}.url") for kind in ("redis", "rabbitmq", "kafka")),
    *(Case(f"two addresses of {kind}", queue(type=kind, **{kind: {"url": "x://h"}}),
           queue(type=kind, **{kind: {"url": "x://h", "urlFrom": SECRET}}),
           "write url or urlFrom, not both") for kind in ("redis", "rabbitmq", "kafka")),
    Case("one store", {**DEPLOYMENT, "controlPlane": {"stateStore": {"uriFrom": SECRET}}},
         {**DEPLOYMENT, "controlPlane": {"stateStore": {"uri": "redis://h", "managed": {}}}},
         "write exactly one of uri, uriFrom, managed"),
    Case("no store", {**DEPLOYMENT, "controlPlane": {}},
         {**DEPLOYMENT, "controlPlane": {"stateStore": {}}},
         "write exactly one of uri, uriFrom, managed"),
    Case("store's scheme",
         {**DEPLOYMENT, "controlPlane": {"stateStore": {"uri": "mongodb+srv://h"}}},
         {**DEPLOYMENT, "controlPlane": {"stateStore": {"uri": "mysql://h"}}},
         "uri has no scheme of a state store"),
    Case("one source", service(source={"image": {}}),
         service(source={"image": {}, "configMap": {"name": "code"}}),
         "write exactly one of git, image, configMap"),
    Case("no source", service(source={"git": {"url": "https://h/r"}}), service(source={}),
         "write exactly one of git, image, configMap"),
    Case("reserved name", service(name="control_plane_"), service(name="control_plane"),
         "the name control_plane is reserved"),
    Case("path of a file", service(path="src/workflow:w"), service(path="src/workflow.py:w"),
         "leave out the ending .py"),
    *(Case(f"path {path}", service(path="src/..a:w"), service(path=path),
           "path leads outside of the source") for path in ("/src/workflow:w", "src/../../x:w")),
    Case("known hosts",
         service(source={"git": {"url": "u", "knownHostsFrom": SECRET}}),
         service(source={"git": {"url": "u", "knownHostsFrom": {}}}),
         "write exactly one of configMapKeyRef, secretKeyRef"),
    Case("value and valueFrom", env(value="a"), env(value="a", valueFrom=SECRET),
         "write value or valueFrom, not both"),
    Case("two origins", env(valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}),
         env(valueFrom={"fieldRef": {"fieldPath": "metadata.name"}, **SECRET}),
         "write exactly one of secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef"),
    Case("reserved name of a wfs", {**WFS, "serviceName": "echo"},
         {**WFS, "serviceName": "control_plane"}, "the name control_plane is reserved",
         kind="WorkflowService"),
    Case("file as a wfs's path", {**WFS, "path": "a.b:w"}, {**WFS, "path": "a.py:w"},
         "leave out the ending .py", kind="WorkflowService"),
    Case("wfs's path that leads out", {**WFS, "path": "a/b:w"}, {**WFS, "path": "../b:w"},
         "path leads outside of the source", kind="WorkflowService"),
    Case("replicas and autoscaling", scaled(), service(
        replicas=2, autoscaling={"maxReplicas": 5, "targetBacklog": 4}),
         "autoscaling changes the number of workers; remove replicas, or autoscaling"),
    *(Case(f"broadcast and autoscaling of a {kind}", good, bad, "write replicas instead of", kind)
      for kind, good, bad in (
          ("Deployment", service(broadcast=False, **scaled()["services"][0]),
           service(**{**scaled()["services"][0], "broadcast": True})),
          ("WorkflowService", {**scaled("WorkflowService"), "broadcast": False},
           {**scaled("WorkflowService"), "broadcast": True}))),
    *(Case(f"two targets of a {kind}", scaled(kind, targetBacklog=None, targetWaitSeconds=1.5),
           scaled(kind, targetWaitSeconds=1.5),
           "write exactly one of targetBacklog, targetWaitSeconds", kind)
      for kind in ("Deployment", "WorkflowService")),
    Case("no target", scaled(), scaled(targetBacklog=None),
         "write exactly one of targetBacklog, targetWaitSeconds"),
    *(Case(f"bounds of a {kind}", scaled(kind, minReplicas=5), scaled(kind, minReplicas=6),
           "minReplicas is above maxReplicas; write at most maxReplicas", kind)
      for kind in ("Deployment", "WorkflowService")),
    Case("schedule above the greatest", scaled(schedules=[{**SCHEDULE, "minReplicas": 5}]),
         scaled(schedules=[{**SCHEDULE, "minReplicas": 6}]),
         "a minReplicas of schedules is above maxReplicas"),
    Case("schedule that never holds", scaled(schedules=[{**SCHEDULE, "timeZone": "Europe/Rome"}]),
         scaled(schedules=[{**SCHEDULE, "end": SCHEDULE["start"]}]),
         "end is the same as start; write a later moment"),
]  # fmt: skip


def managed(size: Any = None, **storage: Any) -> Json:
    given = {**storage} if size is None else {"size": size, **storage}
    return queue(type="redis", managed={"storage": given} if given else {})


def store(**given: Any) -> Json:
    return {**DEPLOYMENT, "controlPlane": {"stateStore": given}}


TRANSITIONS = [
    Case("queue type", queue(**REDIS), queue(type="rabbitmq", rabbitmq={"url": "amqp://h"}),
         "messageQueue.type is immutable",
         good_after=queue(type="redis", redis={"urlFrom": SECRET})),
    Case("queue type from nothing", DEPLOYMENT, queue(**REDIS), "messageQueue.type is immutable",
         good_after=queue(type="simple")),
    Case("queue managed", managed(), queue(**REDIS), "a managed queue stays managed",
         good_after={**managed(), "suspend": True}),
    Case("queue external", queue(**REDIS), managed(), "a managed queue stays managed",
         good_after=queue(type="redis", redis={"url": "redis://other"})),
    Case("store managed", store(managed={}), store(uri="redis://h"),
         "a managed state store stays managed", good_after={**store(managed={}), "suspend": True}),
    Case("store external", store(uri="redis://h"), store(managed={}),
         "a managed state store stays managed", good_after=store(uri="redis://other")),
    Case("storage size", managed("1Gi"), managed("2Gi"), "storage.size is immutable",
         good_after=managed()),
    Case("storage size as a number", managed(1024), managed(2048), "storage.size is immutable",
         good_after=managed("1024")),
    Case("storage class", managed(storageClassName="a"), managed(storageClassName="b"),
         "storage.storageClassName is immutable",
         good_after={**managed(storageClassName="a"), "suspend": True}),
    Case("size of the store", store(managed={"storage": {"size": "1Gi"}}),
         store(managed={"storage": {"size": "2Gi"}}), "storage.size is immutable",
         good_after=store(managed={})),
    Case("deploymentRef", WFS, {**WFS, "deploymentRef": {"name": "other"}},
         "deploymentRef is immutable", kind="WorkflowService",
         good_after={**WFS, "replicas": 4}),
]  # fmt: skip

SCHEMA = [
    Case("negative replicas", service(replicas=0), service(replicas=-1), "greater than or equal"),
    Case("port", {**DEPLOYMENT, "ui": {"name": "u", "source": {"image": {}}, "port": 3000}},
         {**DEPLOYMENT, "ui": {"name": "u", "source": {"image": {}}, "port": 70000}},
         "less than or equal"),
    Case("time-out", service(timeoutSeconds=0.5), service(timeoutSeconds=0), "greater than 0"),
    Case("policy", service(sessionPolicy="reject"), service(sessionPolicy="queue"),
         "Unsupported value"),
    Case("number in quotes", service(replicas=2), service(replicas="2"), "must be of type integer"),
    Case("quantity", managed(1073741824), managed("much"), "should match"),
    Case("unknown key", service(broadcast=False), service(broadcst=False), "unknown field"),
    Case("service name", service(name="Echo.1"), service(name="-echo"), "should match"),
    Case("two of a name", {"services": [SERVICE, changed(SERVICE, {"name": "b"})]},
         {"services": [SERVICE, SERVICE]}, "Duplicate value"),
    Case("two variables of a name", env(value="a"),
         service(env=[{"name": "A", "value": "a"}, {"name": "A", "value": "b"}]),
         "Duplicate value"),
    Case("no path", service(), service(path=None), "Required value"),
    Case("bad path", service(path="a.b:w"), service(path="workflow"), "should match"),
    Case("no reference", WFS, changed(WFS, {"deploymentRef": None}), "Required value",
         kind="WorkflowService"),
    Case("least workers", scaled(minReplicas=0), scaled(minReplicas=-1), "greater than or equal"),
    Case("greatest number of workers", scaled(maxReplicas=1), scaled(maxReplicas=0),
         "greater than or equal"),
    Case("no greatest number", scaled(), scaled(maxReplicas=None), "Required value"),
    Case("engine", scaled(engine="keda"), scaled(engine="hpa"), "Unsupported value"),
    Case("target of nothing", scaled(targetBacklog=1), scaled(targetBacklog=0),
         "greater than or equal"),
    Case("wait of nothing", scaled(targetBacklog=None, targetWaitSeconds=0.1),
         scaled(targetBacklog=None, targetWaitSeconds=0), "greater than 0"),
    Case("window", rules(stabilizationWindowSeconds=0), rules(stabilizationWindowSeconds=3601),
         "less than or equal"),
    Case("tolerance", rules(tolerance=0.05), rules(tolerance=2), "less than or equal"),
    Case("policy of a rate", rules(policies=[{"type": "Pods", "value": 1, "periodSeconds": 60}]),
         rules(policies=[{"type": "Pods", "value": 0, "periodSeconds": 60}]),
         "greater than or equal"),
    Case("no policy of a rate", rules(selectPolicy="Disabled"), rules(policies=[]),
         "should have at least 1 items"),
    Case("cron", scaled(schedules=[SCHEDULE]), scaled(schedules=[{**SCHEDULE, "start": "8"}]),
         "should be at least 9 chars long"),
    Case("queue type of 0.8.1", queue(type="aws"), queue(type="solace"), "Unsupported value"),
]  # fmt: skip


def resource(kind: str, spec: Json, name: str = "main") -> Json:
    """A whole object."""
    version = f"{GROUP}/v1alpha1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``case``: the rules and the schema; ``transition``: what may not change."""
    for name, cases in (("case", RULES + SCHEMA), ("transition", TRANSITIONS)):
        if name in metafunc.fixturenames:
            # The top conftest marks what has the broker's own name as a preview.
            ids = [case.name.replace("rabbitmq", "amqp") for case in cases]
            metafunc.parametrize(name, cases, ids=ids)


@pytest.fixture
def collection(namespace: str) -> Any:
    """The path of a kind's objects in the test's namespace."""
    base = f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}"
    return lambda kind: f"{base}/{PLURALS[kind]}"


@pytest.fixture(scope="session")
def build() -> Any:
    """``resource`` for test modules, which cannot import a conftest."""
    return resource
