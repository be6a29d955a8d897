"""Deployments as custom resources: what is written reads back as the same deployment."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamadeploy.spec import (
    DeploymentSpec,
    SpecError,
    load_deployment,
    to_manifests,
)
from llamadeploy.spec.config_maps import MAX_BYTES
from llamadeploy.spec.deployment import ControlPlaneSpec, QueueSpec, ServiceSpec, SourceSpec, UiSpec
from llamadeploy.spec.names import ENV_NAME, RESOURCE_NAME, SERVICE_NAME, TOPIC_NAMESPACE

names = st.from_regex(RESOURCE_NAME.replace("{0,251}", "{0,20}"), fullmatch=True)
service_names = st.from_regex(SERVICE_NAME.replace("{0,127}", "{0,20}"), fullmatch=True).filter(
    lambda name: name != "control_plane"
)
env_names = st.from_regex(ENV_NAME, fullmatch=True).filter(lambda name: len(name) <= 50)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.just("\n"))
words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=10)
seconds = st.none() | st.floats(0.001, 1e6)
envs = st.dictionaries(env_names, texts, max_size=4)
parts = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
files = st.dictionaries(paths, texts, max_size=4)

sources = st.one_of(
    st.builds(lambda name, data: SourceSpec(type="configmap", name=name, files=data), names, files),
    st.builds(lambda image: SourceSpec(type="image", image=image), st.none() | words),
    st.builds(
        lambda url, ref, login, hosts: SourceSpec(
            type="git",
            url=f"https://host/{url}",
            ref=ref,
            credentials_secret="git-login" if login else None,
            credentials=login,
            known_hosts=hosts,
        ),
        words,
        st.none() | words,
        st.just({}) | st.just({"username": "u", "password": "p"}),
        st.none() | texts,
    ),
)


@st.composite
def components(draw):
    env = draw(envs)
    return {
        "source": draw(sources),
        "env": env,
        "secret_env": sorted(draw(st.sets(st.sampled_from(sorted(env)))) if env else ()),
        "env_files": draw(st.lists(words, max_size=2)),
        "python_dependencies": draw(st.lists(words, max_size=2)),
        "ts_dependencies": draw(st.dictionaries(words, words, max_size=2)),
    }


@st.composite
def services(draw, name):
    return ServiceSpec(
        name=name,
        path=draw(st.sampled_from(["workflow:w", "src/pkg.flow:w"])),
        description=draw(st.none() | texts),
        replicas=draw(st.integers(0, 1000)),
        max_concurrent_tasks=draw(st.integers(1, 10_000)),
        session_policy=draw(st.sampled_from(["enqueue", "parallel", "reject"])),
        timeout=draw(seconds),
        wait_timeout=draw(seconds),
        queue_timeout=draw(seconds),
        max_retries=draw(st.integers(0, 100)),
        retry_on_error=draw(st.booleans()),
        broadcast=draw(st.booleans()),
        **draw(components()),
    )


queues = st.one_of(
    st.just(QueueSpec()),
    st.builds(
        lambda url, mode: QueueSpec(type="redis", options=url | mode),
        st.sampled_from([{"url": "redis://h"}, {"url": "redis://u:p@h:1/2"}]),
        st.sampled_from([{}, {"exclusive_mode": True}, {"exclusive_mode": False}]),
    ),
    st.builds(
        lambda url, name: QueueSpec(type="rabbitmq", options=url | name),
        st.sampled_from([{"url": "amqp://h"}, {"url": "amqps://u:p%40@h/v"}]),
        st.sampled_from([{}, {"exchange_name": "x"}]),
    ),
    st.builds(
        lambda url: QueueSpec(type="kafka", options=url),
        st.sampled_from([{"url": "h:9092"}]),
    ),
    st.builds(
        lambda options: QueueSpec(type="aws", options=options),
        st.sampled_from(
            [
                {},
                {"aws_region": "r", "aws_access_key_id": "k", "aws_secret_access_key": "s"},
            ]
        ),
    ),
)


@st.composite
def deployments(draw):
    found = {name: draw(services(name)) for name in draw(st.lists(service_names, max_size=3))}
    ui = None
    if draw(st.booleans()):
        port = draw(st.none() | st.integers(1, 65535))
        ui = UiSpec(name="ui", port=port, **draw(components()))
    return DeploymentSpec(
        name=draw(names),
        namespace=draw(st.none() | names),
        control_plane=ControlPlaneSpec(
            cors_origins=draw(st.none() | st.lists(words, max_size=2)),
            topic_namespace=draw(
                st.none()
                | st.from_regex(TOPIC_NAMESPACE.replace("{0,127}", "{0,20}"), fullmatch=True)
            ),
            state_store_uri=draw(
                st.sampled_from([None, "memory://", "sqlite:///x.db", "postgresql://u:p@h/d"])
            ),
        ),
        message_queue=draw(queues),
        default_service=draw(st.sampled_from([None, *found])),
        services=found,
        ui=ui,
    )


def distinct_config_maps(spec: DeploymentSpec) -> bool:
    """A ConfigMap whose name is also that of a known_hosts file's would be another."""
    return not any("known-hosts" in (item.source.name or "") for item in spec.services.values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(deployments().filter(distinct_config_maps))
def test_what_is_written_reads_back_the_same(spec):
    assert load_deployment(to_manifests(spec)) == spec


MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data: {workflow.py: "w = 1", other.py: "o = 1"}
---
apiVersion: llamadeploy.io/v1alpha1
kind: Deployment
metadata: {name: q}
spec:
  controlPlane: {replicas: 2, stateStore: {managed: {}}, podTemplate: {spec: {a: [1]}}}
  orchestrator: {replicas: 3}
  messageQueue: {type: redis, managed: {}, redis: {exclusiveMode: true}}
  services:
  - name: a
    source: {configMap: {name: code, items: [{key: workflow.py, path: src/workflow.py}]}}
    path: src/workflow:w
    autoscaling: {minReplicas: 0, maxReplicas: 3, targetBacklog: 2}
    podTemplate: {spec: {}}
    env:
    - {name: A, value: a}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - name: b
    source: {configMap: {name: code}}
    path: workflow:w
  deletionPolicy: Retain
  suspend: true
  version: "0.1"
"""


def test_what_only_a_cluster_uses_is_kept():
    spec = load_deployment(MANIFEST)
    again = load_deployment(to_manifests(spec))
    assert sorted(again.ignored) == sorted(spec.ignored)
    assert again == spec.model_copy(update={"ignored": again.ignored})
    body = list(yaml.safe_load_all(to_manifests(spec)))[-1]["spec"]
    assert body["messageQueue"] == {
        "type": "redis",
        "managed": {},
        "redis": {"exclusiveMode": True},
    }
    assert body["services"][0]["autoscaling"] == {
        "minReplicas": 0,
        "maxReplicas": 3,
        "targetBacklog": 2,
    }


FILE = """
name: My_App
control-plane: {port: 8123, state_store_uri: "postgresql://u:pw-store@h/d"}
message-queue: {type: rabbitmq, host: h, username: u, password: pw-queue}
services:
  a:
    name: A
    source: {type: local, name: src}
    path: workflow:w
    port: 9000
    env: {PLAIN: v, OVER: file}
    env-files: [.env]
"""


def documents(text: str, kind: str) -> list[dict]:
    return [item for item in yaml.safe_load_all(text) if item["kind"] == kind]


def test_a_deployment_file_with_a_folder():
    source = {"workflow.py": "w = 1\n", "lib/util.py": "u = 1\n", ".env": "OVER=pw-env\nX=${Y}\n"}
    text = to_manifests(load_deployment(FILE), local_files={"src": source})
    spec = load_deployment(text)
    service = spec.services["a"]
    assert spec.name == "my-app"
    assert (service.source.name, service.path) == ("my-app-src", "workflow:w")
    assert service.source.files == {"workflow.py": "w = 1\n", "lib/util.py": "u = 1\n"}
    assert service.env == {"PLAIN": "v", "OVER": "pw-env", "X": "${Y}"}
    assert service.secret_env == ["OVER", "X"]
    assert spec.message_queue.options["url"] == "amqp://u:pw-queue@h/"


def test_credentials_are_only_in_secrets():
    text = to_manifests(
        load_deployment(FILE), local_files={"src": {"workflow.py": "", ".env": "OVER=pw-env"}}
    )
    (secret,) = documents(text, "Secret")
    assert secret["metadata"]["name"] == "my-app-secrets"
    rest = [item for item in yaml.safe_load_all(text) if item["kind"] != "Secret"]
    for word in ("pw-store", "pw-queue", "pw-env"):
        assert word in str(secret)
        assert word not in str(rest)


def test_what_is_not_carried_over_is_said():
    text = to_manifests(load_deployment(FILE), local_files={"src": {"workflow.py": "", ".env": ""}})
    assert re.findall(r"^# Not carried over: (.*)$", text, re.MULTILINE) == [
        "name: My_App cannot be an object's name",
        "control-plane.port: decided by the pod",
        "services.a.port: decided by the pod",
    ]


@pytest.mark.parametrize(
    ("path", "given", "written", "expected"),
    [
        ("src/workflow:w", "workflow.py", "workflow.py", "workflow:w"),
        ("workflow:w", "workflow.py", "workflow.py", "workflow:w"),
        ("sub/workflow:w", "sub/workflow.py", "sub/workflow.py", "sub/workflow:w"),
        ("src:w", "__init__.py", "src/__init__.py", "src:w"),
    ],
)
def test_both_readings_of_a_path_come_out_as_one(path, given, written, expected):
    spec = load_deployment(
        f"name: d\ncontrol-plane: {{}}\nservices:\n"
        f"  a: {{name: A, source: {{type: local, name: src}}, path: '{path}'}}\n"
    )
    service = load_deployment(to_manifests(spec, local_files={"src": {given: ""}})).services["a"]
    assert (list(service.source.files), service.path) == ([written], expected)


def failure(spec: DeploymentSpec, **arguments) -> str:
    with pytest.raises(SpecError) as caught:
        to_manifests(spec, **arguments)
    return str(caught.value)


def test_a_folder_without_its_files_cannot_be_written():
    assert failure(load_deployment(FILE)) == (
        "services.a.source: the folder 'src' is on this machine, where a cluster cannot read it;"
        " use a git source, or give its files"
    )


def test_a_path_that_fits_no_file_names_the_places():
    assert failure(load_deployment(FILE), local_files={"src": {"flow.py": ""}}) == (
        "services.a.path: no file fits 'workflow:w'; one of these must exist: workflow.py,"
        " workflow/__init__.py, src/workflow.py, src/workflow/__init__.py"
    )


def test_an_env_file_outside_of_the_source():
    assert failure(load_deployment(FILE), local_files={"src": {"workflow.py": ""}}) == (
        "services.a.env-files[0]: '.env' is not in the source; move it to src/.env, or write its"
        " variables under env"
    )


def test_a_source_too_large_for_a_config_map():
    source = {"workflow.py": "", "big.txt": "x" * MAX_BYTES, ".env": ""}
    size = MAX_BYTES + len("workflow.py") + len("big.txt")
    assert failure(load_deployment(FILE), local_files={"src": source}) == (
        f"ConfigMap/my-app-src: its files have {size} bytes; a ConfigMap holds at most"
        f" {MAX_BYTES}; use a git source"
    )


def test_solace_is_refused():
    spec = DeploymentSpec(name="d", message_queue=QueueSpec(type="solace"))
    assert failure(spec).startswith("message-queue.type: solace is not supported; use redis")


@pytest.mark.parametrize("kind", ["redis", "kafka"])
def test_a_broker_without_an_address_gets_the_default_one(kind: str) -> None:
    written = to_manifests(DeploymentSpec(name="d", message_queue=QueueSpec(type=kind)))
    assert "names no broker" in written
    assert "localhost" in load_deployment(written).message_queue.options["url"]
