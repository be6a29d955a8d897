"""``kind: Deployment`` and what belongs to it, in one file of several documents."""

from __future__ import annotations

import base64

import pytest

from llamadeploy.spec import SpecError, load_deployment, load_deployments

HEAD = "apiVersion: llamadeploy.io/v1alpha1\nkind: Deployment\nmetadata: {name: q}\n"

OBJECTS = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: code}}
data: {{workflow.py: "w = 1", helper.py: "h = 1"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: state}}
type: Opaque
stringData: {{uri: "sqlite:///state.db"}}
data: {{token: {base64.b64encode(b"t0ken").decode()}}}
---
"""

FULL = (
    OBJECTS
    + HEAD
    + """
spec:
  defaultService: dummy_workflow
  controlPlane:
    replicas: 2
    stateStore: {uriFrom: {secretKeyRef: {name: state, key: uri}}}
    topicNamespace: mine
    corsOrigins: ["*"]
    podTemplate: {spec: {priorityClassName: high}}
  orchestrator: {replicas: 2}
  messageQueue:
    type: rabbitmq
    managed: {storage: {size: 1Gi}}
  services:
  - name: dummy_workflow
    description: Does nothing.
    source: {configMap: {name: code}}
    path: workflow:w
    pythonDependencies: [httpx]
    autoscaling: {minReplicas: 0, maxReplicas: 10, targetBacklog: 5, engine: operator}
    maxConcurrentTasks: 4
    sessionPolicy: parallel
    timeoutSeconds: 600
    waitTimeoutSeconds: 60
    queueTimeoutSeconds: 6
    maxRetries: 1
    retryOnError: true
    broadcast: false
    envFiles: [.env]
    env:
    - {name: PLAIN, value: v}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: state, key: token}}}
    - {name: HELPER, valueFrom: {configMapKeyRef: {name: code, key: helper.py}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MAYBE, valueFrom: {secretKeyRef: {name: none, key: k, optional: true}}}
    podTemplate: {spec: {}}
  - name: second
    source: {image: {image: "r/x:1"}}
    path: app/flow:w
    replicas: 0
  deletionPolicy: Retain
  suspend: false
  version: "0.1"
  signingKeyFrom: {secretKeyRef: {name: keys, key: ring}}
  ui: {name: ui, source: {configMap: {name: code}}, port: 3000}
"""
)


def test_every_field_of_a_service():
    service = load_deployment(FULL).services["dummy_workflow"]
    assert service.model_dump(exclude_defaults=True) == {
        "name": "dummy_workflow",
        "description": "Does nothing.",
        "source": {
            "type": "configmap",
            "name": "code",
            "files": {"workflow.py": "w = 1", "helper.py": "h = 1"},
        },
        "path": "workflow:w",
        "python_dependencies": ["httpx"],
        "max_concurrent_tasks": 4,
        "session_policy": "parallel",
        "timeout": 600,
        "wait_timeout": 60,
        "queue_timeout": 6,
        "max_retries": 1,
        "retry_on_error": True,
        "env_files": [".env"],
        "env": {"PLAIN": "v", "TOKEN": "t0ken", "HELPER": "h = 1"},
        "secret_env": ["TOKEN"],
    }


def test_the_deployment():
    spec = load_deployment(FULL)
    assert (spec.name, spec.namespace, spec.default_service) == ("q", None, "dummy_workflow")
    assert spec.control_plane.state_store_uri == "sqlite:///state.db"
    assert spec.control_plane.topic_namespace == "mine"
    assert spec.control_plane.cors_origins == ["*"]
    assert spec.services["second"].source.image == "r/x:1"
    assert spec.services["second"].replicas == 0
    assert spec.ui is not None
    assert (spec.ui.name, spec.ui.port) == ("ui", 3000)


def test_a_managed_broker_is_the_simple_queue_on_a_laptop():
    assert load_deployment(FULL).message_queue.type == "simple"


def test_what_a_laptop_ignores_is_listed():
    assert sorted(load_deployment(FULL).ignored) == [
        "spec.controlPlane.podTemplate",
        "spec.controlPlane.replicas",
        "spec.deletionPolicy",
        "spec.messageQueue.managed",
        "spec.orchestrator",
        "spec.services[0].autoscaling",
        "spec.services[0].env[3]",
        "spec.services[0].podTemplate",
        "spec.signingKeyFrom",
        "spec.suspend",
        "spec.version",
    ]


def test_a_managed_store_is_left_to_the_laptop():
    spec = load_deployment(
        HEAD + "spec: {controlPlane: {stateStore: {managed: {storage: {size: 2Gi}}}}}"
    )
    assert spec.control_plane.state_store_uri is None
    assert spec.ignored == ["spec.controlPlane.stateStore.managed"]


def test_the_smallest_manifest():
    spec = load_deployment(HEAD + "spec: {}")
    assert (spec.services, spec.message_queue.type, spec.ignored) == ({}, "simple", [])


@pytest.mark.parametrize(
    ("queue", "options"),
    [
        ("{type: simple}", {}),
        ("{type: simple, simple: {}}", {}),
        (
            "{type: redis, redis: {url: 'redis://h', exclusiveMode: true}}",
            {"url": "redis://h", "exclusive_mode": True},
        ),
        ("{type: redis, redis: {url: 'redis://h'}}", {"url": "redis://h"}),
        (
            "{type: rabbitmq, rabbitmq: {urlFrom: {secretKeyRef: {name: state, key: token}},"
            " exchangeName: x}}",
            {"url": "t0ken", "exchange_name": "x"},
        ),
        ("{type: kafka, kafka: {url: 'h:9092'}}", {"url": "h:9092"}),
        (
            "{type: aws, aws: {region: r,"
            " accessKeyIdFrom: {secretKeyRef: {name: state, key: token}},"
            " secretAccessKeyFrom: {secretKeyRef: {name: state, key: uri}}}}",
            {
                "aws_region": "r",
                "aws_access_key_id": "t0ken",
                "aws_secret_access_key": "sqlite:///state.db",
            },
        ),
    ],
)
def test_message_queues(queue, options):
    spec = load_deployment(OBJECTS + HEAD + f"spec: {{messageQueue: {queue}}}")
    assert queue.startswith(f"{{type: {spec.message_queue.type}")
    assert spec.message_queue.options == options


def test_git_source():
    text = (
        OBJECTS
        + HEAD
        + """
spec:
  services:
  - name: a
    path: w:w
    source:
      git:
        url: git@host:o/r
        ref: v1
        credentialsSecretRef: {name: state}
        knownHostsFrom: {configMapKeyRef: {name: code, key: helper.py}}
"""
    )
    source = load_deployment(text).services["a"].source
    assert source.model_dump(exclude_defaults=True) == {
        "type": "git",
        "url": "git@host:o/r",
        "ref": "v1",
        "credentials_secret": "state",
        "credentials": {"uri": "sqlite:///state.db", "token": "t0ken"},
        "known_hosts": "h = 1",
    }


def test_items_of_a_config_map_pick_and_place_files():
    text = (
        OBJECTS
        + HEAD
        + """
spec:
  services:
  - name: a
    path: src/flow:w
    source: {configMap: {name: code, items: [{key: workflow.py, path: src/flow.py}]}}
"""
    )
    assert load_deployment(text).services["a"].source.files == {"src/flow.py": "w = 1"}


WFS = """
---
apiVersion: llamadeploy.io/v1alpha1
kind: WorkflowService
metadata: {name: team-a}
spec:
  deploymentRef: {name: q}
  serviceName: team_a
  source: {configMap: {name: code}}
  path: workflow:w
  replicas: 2
  podTemplate: {spec: {}}
"""


def test_a_service_of_its_own_joins_its_deployment():
    spec = load_deployment(OBJECTS + HEAD + "spec: {defaultService: team_a}" + WFS)
    assert list(spec.services) == ["team_a"]
    assert spec.services["team_a"].replicas == 2
    assert spec.ignored == ["wfs/team-a: spec.podTemplate"]


def test_a_service_of_its_own_may_come_first_and_is_named_after_its_object():
    wfs = WFS.removeprefix("\n---").replace("serviceName: team_a\n", "\n")
    spec = load_deployment(OBJECTS + wfs + "---\n" + HEAD + "spec: {}")
    assert list(spec.services) == ["team-a"]


def test_each_service_goes_to_the_deployment_of_its_own_name_and_namespace():
    other = HEAD.replace("{name: q}", "{name: other, namespace: prod}") + "spec: {}\n---\n"
    wfs = WFS.replace("deploymentRef: {name: q}", "deploymentRef: {name: other}")
    first, second = load_deployments(OBJECTS + other + HEAD + "spec: {}\n" + wfs)
    assert (first.name, first.namespace, list(first.services)) == ("other", "prod", ["team_a"])
    assert (second.name, list(second.services)) == ("q", [])


def test_a_service_of_another_namespace_does_not_join():
    head = HEAD.replace("{name: q}", "{name: q, namespace: prod}")
    wfs = WFS.replace("{name: team-a}", "{name: team-a, namespace: dev}")
    with pytest.raises(SpecError, match="there is no Deployment 'q' in this file"):
        load_deployments(OBJECTS + head + "spec: {}\n" + wfs)


def test_objects_of_others_are_listed_as_ignored():
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n---\n" + HEAD + "spec: {}"
    assert load_deployment(text).ignored == ["Namespace/prod"]


def test_what_kubectl_get_prints_is_read():
    head = HEAD.replace("{name: q}", "{name: q, uid: x, resourceVersion: '1', generation: 2}")
    assert load_deployment(head + "spec: {}\nstatus: {conditions: []}\n").name == "q"


def test_both_forms_in_one_text():
    text = HEAD + "spec: {}\n---\nname: file\ncontrol-plane: {}\nservices: {}\n"
    assert [spec.name for spec in load_deployments(text)] == ["q", "file"]


def test_dates_stay_text():
    head = HEAD.replace("{name: q}", "{name: q, labels: {since: 2024-01-01}}")
    assert load_deployment(head + "spec: {version: 2024-01-01}").cluster_only == {
        "version": "2024-01-01"
    }


def test_secrets_are_not_in_the_repr():
    spec = load_deployment(FULL.replace("sqlite:///state.db", "redis://u:pw-store@h"))
    assert "t0ken" in str(spec.model_dump())
    assert "t0ken" not in repr(spec)
    assert "pw-store" not in repr(spec)
