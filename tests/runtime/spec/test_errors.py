"""Every kind of mistake, with its exact message: where, which field, what was wrong, the cure."""

from __future__ import annotations

import base64

import pytest

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec import SpecError, SpecProblem, load_deployment, load_deployments

FILE = """name: d
control-plane:
  port: 8000
default-service: echo
services:
  echo:
    name: Echo
    source:
      type: local
      name: src
    path: workflow:w
    env:
      KEY: value
    replicas: 1
"""

MANIFEST = """apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data: {workflow.py: "w = 1"}
---
apiVersion: v1
kind: Secret
metadata: {name: state}
stringData: {uri: "sqlite:///x"}
---
apiVersion: llamadeploy.io/v1alpha1
kind: Deployment
metadata:
  name: q
spec:
  defaultService: echo
  controlPlane:
    stateStore: {uriFrom: {secretKeyRef: {name: state, key: uri}}}
  messageQueue: {type: simple}
  services:
  - name: echo
    source: {configMap: {name: code}}
    path: workflow:w
    env:
    - {name: A, value: a}
"""


def messages(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_deployments(text, file="d.yaml")
    assert isinstance(caught.value, ConfigurationError)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.errors]
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: [",
            "d.yaml:1: YAML: expected the node content, but found '<stream end>' (while parsing a"
            " flow node); correct the YAML there",
        ),
        (
            "a: 1\n\tb: 2",
            "d.yaml:2: YAML: found character '\\t' that cannot start any token; indent with"
            " spaces, not with tabs",
        ),
        (
            "name: d\n  x: 1",
            "d.yaml:2: YAML: mapping values are not allowed here; correct the YAML there",
        ),
        ("a: 1\n1: 2", "d.yaml:2: YAML: a key must be text, not 1; put the key in quotes"),
        (
            "x: &a [*a]",
            "d.yaml:1: YAML: an alias refers to the value that contains it; write plain text, a"
            " number, true or false",
        ),
        (
            "a: !!python/object:os.system {}\n",
            "d.yaml:1: a: unknown key; known keys: control-plane, default-service, message-queue,"
            " name, services, ui",
        ),
        (
            "a: !!python/name:os.system ''",
            "d.yaml:1: YAML: could not determine a constructor for the tag"
            " 'tag:yaml.org,2002:python/name:os.system'; correct the YAML there",
        ),
        (
            "a: \x00",
            "d.yaml: YAML: special characters are not allowed; save the file as plain UTF-8 text",
        ),
        ("- a", "d.yaml:1: the document is not a mapping; write 'key: value' lines"),
    ],
)
def test_what_is_not_a_deployment_at_all(text, expected):
    assert expected in messages(text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "default-service: echo",
            "default-servce: echo",
            "4: default-servce: unknown key; did you mean 'default-service'?",
        ),
        (
            "default-service: echo",
            "zzz: 1",
            "4: zzz: unknown key; known keys: control-plane, default-service, message-queue, name,"
            " services, ui",
        ),
        (
            "    env:",
            "    python_dependencies: []\n    env:",
            "12: services.echo.python_dependencies: unknown key; did you mean"
            " 'python-dependencies'?",
        ),
        ("  port: 8000", "  prot: 1", "3: control-plane.prot: unknown key; did you mean 'port'?"),
        ("  port: 8000", "  port: x", "3: control-plane.port: got 'x'; must be a whole number"),
        ("  port: 8000", "  port: 0", "3: control-plane.port: got 0; must be 1 or more"),
        (
            "  port: 8000",
            "  port: 65536",
            "3: control-plane.port: got 65536; must be 65535 or less",
        ),
        (
            "  port: 8000",
            "  step_interval: .inf",
            "3: control-plane.step_interval: got inf; must be a finite number",
        ),
        (
            "  port: 8000",
            "  use_tls: perhaps",
            "3: control-plane.use_tls: got 'perhaps'; must be true or false",
        ),
        (
            "  port: 8000",
            "  cors_origins: here",
            "3: control-plane.cors_origins: got 'here'; must be a list",
        ),
        (
            "  port: 8000",
            "  topic_namespace: 'a b'",
            "3: control-plane.topic_namespace: got 'a b'; use letters, digits, '_', '-' and '.',"
            " at most 128, beginning with a letter, digit or '_'",
        ),
        (
            "  port: 8000",
            "  state_store_uri: sqlte:///pw",
            "3: control-plane.state_store_uri: unknown scheme 'sqlte'; did you mean 'sqlite'?",
        ),
        (
            "  port: 8000",
            "  state_store_uri: /var/pw",
            "3: control-plane.state_store_uri: is not a URI; write scheme://..., such as"
            " sqlite:///state.db",
        ),
        (
            "control-plane:\n  port: 8000",
            "control-plane: 7",
            "2: control-plane: got 7; must be a mapping of keys to values",
        ),
        (
            "control-plane:\n  port: 8000\n",
            "",
            "1: control-plane: is missing; add it: a mapping; `control-plane: {}` takes the"
            " defaults",
        ),
        ("name: d\n", "", "1: name: is missing; add it: the deployment's name"),
        (
            "name: d\n",
            "name: 'a b'\n",
            "1: name: got 'a b'; use letters, digits, '-', '_' and '.', at most 63, beginning and"
            " ending with a letter or digit",
        ),
        ("name: d\n", "name: 7\n", "1: name: got 7; must be text; put it in quotes"),
        (
            "default-service: echo",
            "default-service: ecco",
            "4: default-service: there is no service 'ecco'; did you mean 'echo'?",
        ),
        (
            "default-service: echo",
            "message-queue: {type: rabitmq}",
            "4: message-queue.type: got 'rabitmq'; did you mean 'rabbitmq'?",
        ),
        (
            "default-service: echo",
            "message-queue: {host: h}",
            "4: message-queue.type: is missing; known types: aws, kafka, rabbitmq, redis, simple,"
            " solace",
        ),
        (
            "default-service: echo",
            "message-queue: {type: redis, vhost: v}",
            "4: message-queue.vhost: unknown key; did you mean 'host'?",
        ),
        (
            "default-service: echo",
            "message-queue: simple",
            "4: message-queue: got 'simple'; must be a mapping of keys to values",
        ),
        (
            "  echo:\n",
            "  'e c':\n",
            "6: services.e c: bad name 'e c'; use letters, digits, '_',"
            " '-' and '.', at most 128, beginning with a letter, digit or '_'",
        ),
        (
            "  echo:\n",
            "  control_plane:\n",
            "6: services.control_plane: the name 'control_plane' is reserved; give the service"
            " another name",
        ),
        ("    name: Echo\n", "", "6: services.echo.name: is missing; add it: the name people read"),
        (
            "    path: workflow:w\n",
            "",
            "6: services.echo: has no 'path'; add path: 'dir/module:attribute'",
        ),
        (
            "workflow:w",
            "workflow",
            "11: services.echo.path: got 'workflow'; write 'dir/module:attribute', such as"
            " 'src/workflow:echo_workflow'",
        ),
        (
            "workflow:w",
            "src/flow.py:w",
            "11: services.echo.path: 'src/flow.py:w' names a file; leave out the ending:"
            " 'src/flow:w'",
        ),
        (
            "workflow:w",
            "../flow:w",
            "11: services.echo.path: '../flow:w' leads outside of the source; write it relative to"
            " the source",
        ),
        (
            "type: local",
            "type: locl",
            "9: services.echo.source.type: got 'locl'; did you mean 'local'?",
        ),
        (
            "      name: src\n",
            "",
            "8: services.echo.source: has no 'name'; add name: the folder (local) or the URL (git)"
            " of the code",
        ),
        (
            "name: src",
            "name: ../src",
            "8: services.echo.source: the folder '../src' is not below the deployment file's;"
            " write a path relative to the deployment file, without '..'",
        ),
        (
            "name: src",
            "name: /src",
            "8: services.echo.source: the folder '/src' is not below the deployment file's; write"
            " a path relative to the deployment file, without '..'",
        ),
        (
            "KEY: value",
            "KEY: 8080",
            "13: services.echo.env.KEY: got a number; must be text; put it in quotes",
        ),
        (
            "KEY: value",
            "1KEY: value",
            "13: services.echo.env.1KEY: got text; use letters, digits, '_', '-' and '.', not"
            " beginning with a digit",
        ),
        (
            "replicas: 1",
            "replicas: -1",
            "14: services.echo.replicas: got -1; must be 0 or more",
        ),
        (
            "replicas: 1",
            "replicas: 1001",
            "14: services.echo.replicas: got 1001; must be 1000 or less",
        ),
        (
            "replicas: 1",
            "replicas: 1.5",
            "14: services.echo.replicas: got 1.5; must be a whole number",
        ),
        (
            "replicas: 1",
            "max-concurrent-tasks: 0",
            "14: services.echo.max-concurrent-tasks: got 0; must be 1 or more",
        ),
        ("replicas: 1", "timeout: 0", "14: services.echo.timeout: got 0; must be more than 0"),
        (
            "replicas: 1",
            "timeout: soon",
            "14: services.echo.timeout: got 'soon'; must be a number",
        ),
        (
            "replicas: 1",
            "session-policy: queue",
            "14: services.echo.session-policy: got 'queue'; did you mean 'enqueue'?",
        ),
        (
            "replicas: 1",
            "session-policy: x",
            "14: services.echo.session-policy: got 'x'; known values: enqueue, parallel, reject",
        ),
        (
            "replicas: 1",
            "path: other:w",
            "14: services.echo.path: appears twice, first on line 11; keep one of them, or give"
            " the other a name of its own",
        ),
    ],
)
def test_deployment_file(old, new, expected):
    assert old in FILE
    assert f"d.yaml:{expected}" in messages(FILE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "v1alpha1",
            "v1beta1",
            "11: apiVersion: unknown version 'llamadeploy.io/v1beta1'; write"
            " llamadeploy.io/v1alpha1",
        ),
        (
            "llamadeploy.io",
            "lamadeploy.io",
            "11: apiVersion: unknown group in 'lamadeploy.io/v1alpha1'; did you mean"
            " 'llamadeploy.io/v1alpha1'?",
        ),
        (
            "kind: Deployment",
            "kind: Deploymnt",
            "12: kind: unknown kind 'Deploymnt'; did you mean 'Deployment'?",
        ),
        (
            "apiVersion: llamadeploy.io/v1alpha1\n",
            "",
            "11: apiVersion: is missing; write apiVersion: llamadeploy.io/v1alpha1 and kind:"
            " Deployment",
        ),
        (
            "  name: q",
            "  name: Q_1",
            "14: metadata.name: got 'Q_1'; use lower-case letters, digits, '-' and '.', at most"
            " 253, beginning and ending with a letter or digit",
        ),
        (
            "defaultService",
            "default-service",
            "16: spec.default-service: unknown key; did you mean 'defaultService'?",
        ),
        (
            "defaultService",
            "default_service",
            "16: spec.default_service: unknown key; did you mean 'defaultService'?",
        ),
        (
            "defaultService: echo",
            "defaultService: ecco",
            "16: spec.defaultService: there is no service 'ecco'; did you mean 'echo'?",
        ),
        (
            "name: state, key: uri",
            "name: stat, key: uri",
            "18: spec.controlPlane.stateStore.uriFrom.secretKeyRef.name: there is no Secret 'stat'"
            " in this file; add a 'kind: Secret' document of that name to it (did you mean"
            " 'state'?)",
        ),
        (
            "name: state, key: uri",
            "name: state, key: url",
            "18: spec.controlPlane.stateStore.uriFrom.secretKeyRef.key: the Secret 'state' has no"
            " key 'url'; did you mean 'uri'?",
        ),
        (
            'uri: "sqlite:///x"',
            'uri: "nosql://pw"',
            "18: spec.controlPlane.stateStore.uriFrom: unknown scheme 'nosql'; known schemes:"
            " memory, mongodb, mongodb+srv, postgres, postgresql, redis, rediss, sqlite, unix",
        ),
        (
            "{uriFrom: {secretKeyRef: {name: state, key: uri}}}",
            "{uri: 'sqlite:///x', managed: {}}",
            "18: spec.controlPlane.stateStore: has uri and managed; keep one of them",
        ),
        (
            "{uriFrom: {secretKeyRef: {name: state, key: uri}}}",
            "{}",
            "18: spec.controlPlane.stateStore: is empty; give one of uri, uriFrom, managed",
        ),
        (
            "{type: simple}",
            "{type: solace}",
            "19: spec.messageQueue.type: solace is not supported; use redis, rabbitmq, kafka or"
            " aws, or simple without a broker",
        ),
        (
            "{type: simple}",
            "{type: redis, rabbitmq: {}}",
            "19: spec.messageQueue: has settings of 'rabbitmq', but the type is 'redis'; remove"
            " 'rabbitmq', or write type: rabbitmq",
        ),
        (
            "{type: simple}",
            "{type: redis, managed: {}, redis: {url: x}}",
            "19: spec.messageQueue: has managed and an address in 'redis'; keep managed, or the"
            " address of a broker of your own",
        ),
        (
            "{type: simple}",
            "{type: kafka, managed: {}}",
            "19: spec.messageQueue: managed cannot be had for type 'kafka'; use redis or rabbitmq",
        ),
        (
            "{type: simple}",
            "{type: redis, managed: {storage: {size: 1GB}}}",
            "19: spec.messageQueue.managed.storage.size: got '1GB'; write a quantity, such as 1Gi"
            " or 500Mi",
        ),
        (
            "- name: echo",
            "- name: e/c",
            "21: spec.services[0].name: got 'e/c'; use letters, digits, '_', '-' and '.', at most"
            " 128, beginning with a letter, digit or '_'",
        ),
        (
            "{configMap: {name: code}}",
            "{configMap: {name: cod}}",
            "22: spec.services[0].source.configMap.name: there is no ConfigMap 'cod' in this file;"
            " add a 'kind: ConfigMap' document of that name to it (did you mean 'code'?)",
        ),
        (
            "{configMap: {name: code}}",
            "{configMap: {name: code}, image: {}}",
            "22: spec.services[0].source: has image and configMap; keep one of them",
        ),
        (
            "{configMap: {name: code}}",
            "{}",
            "22: spec.services[0].source: is empty; give one of git, image, configMap",
        ),
        (
            "{configMap: {name: code}}",
            "{local: {name: src}}",
            "22: spec.services[0].source.local: unknown key; known keys: configMap, git, image",
        ),
        (
            "{configMap: {name: code}}",
            "{configMap: {name: code, items: [{key: x.py, path: x.py}]}}",
            "22: spec.services[0].source.configMap.items[0].key: the ConfigMap 'code' has no key"
            " 'x.py'; its keys: workflow.py",
        ),
        (
            "{configMap: {name: code}}",
            "{configMap: {name: code, items: [{key: workflow.py, path: ../x.py}]}}",
            "22: spec.services[0].source.configMap.items[0].path: '../x.py' leads outside; write a"
            " path below the source's folder",
        ),
        (
            "    path: workflow:w\n",
            "",
            "21: spec.services[0].path: is missing; add it: the workflow: 'dir/module:attribute'",
        ),
        (
            "    path: workflow:w\n",
            "    path: workflow:w\n    replicas: '2'\n",
            "24: spec.services[0].replicas: got '2'; must be a whole number",
        ),
        (
            "    path: workflow:w\n",
            "    path: workflow:w\n    replicas: 2\n    autoscaling: {maxReplicas: 2,"
            " targetBacklog: 1}\n",
            "21: spec.services[0]: has replicas and autoscaling; keep one of them",
        ),
        (
            "{name: A, value: a}",
            "{name: A, value: 1}",
            "25: spec.services[0].env[0].value: got a number; must be text; put it in quotes",
        ),
        (
            "{name: A, value: a}",
            "{name: A, value: a, valueFrom: {fieldRef: {fieldPath: metadata.name}}}",
            "25: spec.services[0].env[0]: has both value and valueFrom; keep one of them",
        ),
        (
            "{name: A, value: a}",
            "{name: A, value: a}\n    - {name: A, value: b}",
            "26: spec.services[0].env[1].name: the variable 'A' appears twice; keep one of them",
        ),
        (
            "    - {name: A, value: a}",
            "    - {name: A, value: a}\n  - {name: echo, source: {image: {}}, path: 'x:y'}",
            "26: spec.services[1].name: a service named 'echo' is in this Deployment already; give"
            " it another name",
        ),
        (
            "stringData: {uri:",
            "data: {uri:",
            "9: data.uri: is not base64 of a text; encode it, or write it as it is under"
            " stringData",
        ),
    ],
)
def test_manifest(old, new, expected):
    assert old in MANIFEST
    assert f"d.yaml:{expected}" in messages(MANIFEST.replace(old, new, 1))


def test_one_mistake_is_one_problem():
    assert len(messages(FILE.replace("port: 8000", "prot: 1"))) == 1
    assert len(messages(MANIFEST.replace("v1alpha1", "v1beta1"))) == 1
    assert len(messages(MANIFEST.replace("path: workflow:w", "pth: workflow:w") + WFS)) == 2


def test_all_problems_are_told_at_once_in_the_order_of_the_file():
    text = FILE.replace("port: 8000", "prot: 1").replace("replicas: 1", "replicas: -1")
    assert messages(text) == [
        "d.yaml:3: control-plane.prot: unknown key; did you mean 'port'?",
        "d.yaml:14: services.echo.replicas: got -1; must be 0 or more",
    ]


def test_duplicate_deployments():
    assert messages(FILE + "---\n" + FILE) == [
        "d.yaml:16: name: a deployment named 'd' is in this file already, from line 1; give it"
        " another name"
    ]


def test_duplicate_objects():
    first = MANIFEST.split("---\n")[0]
    assert messages(f"{first}---\n{MANIFEST}") == [
        "d.yaml:8: metadata.name: a ConfigMap named 'code' is in this file already; give it"
        " another name"
    ]


WFS = """---
apiVersion: llamadeploy.io/v1alpha1
kind: WorkflowService
metadata: {name: echo}
spec: {deploymentRef: {name: q}, source: {image: {}}, path: "w:w"}
"""


def test_a_service_of_its_own_with_a_taken_name():
    assert messages(MANIFEST + WFS) == [
        "d.yaml:30: spec.serviceName: a service named 'echo' is in this Deployment already; give"
        " it another name"
    ]


def test_a_service_of_its_own_without_its_deployment():
    assert messages(MANIFEST + WFS.replace("{name: q}", "{name: r}")) == [
        "d.yaml:30: spec.deploymentRef.name: there is no Deployment 'r' in this file; known"
        " Deployments: q"
    ]


def test_a_list_is_refused_with_the_way_out():
    assert messages("apiVersion: v1\nkind: List\nitems: []\n") == [
        "d.yaml:2: kind: a List is not read; write its items as documents of their own, separated"
        " by '---'"
    ]


def test_no_deployment_and_several_where_one_is_wanted():
    with pytest.raises(SpecError) as caught:
        load_deployment("", file="d.yaml")
    assert str(caught.value) == (
        "d.yaml: there is no deployment in it; write a deployment file (name, control-plane,"
        " services) or a 'kind: Deployment'"
    )
    with pytest.raises(SpecError) as caught:
        load_deployment(FILE + "---\n" + FILE.replace("name: d", "name: e"))
    assert str(caught.value) == (
        "<text>: there are 2 deployments in it: d, e; put each into a file of its own"
    )


def test_a_text_that_expands_without_end_is_refused_quickly():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (message,) = messages("\n".join(lines))
    assert "more than 200000 values, counting aliases each time" in message


def test_deep_nesting_is_refused():
    (message,) = messages("a: " + "[" * 5000)
    assert message == "d.yaml: the YAML is nested too deeply; flatten it"


def test_messages_do_not_show_what_may_be_confidential():
    hidden = "s3cr3t"
    texts = [
        FILE.replace("  port: 8000", f"  state_store_uri: {hidden}"),
        FILE.replace("  port: 8000", f"  state_store_uri: [{hidden}]"),
        FILE.replace("KEY: value", f"KEY: [{hidden}]"),
        FILE.replace(
            "default-service: echo", f"message-queue: {{type: redis, password: [{hidden}]}}"
        ),
        MANIFEST.replace("{type: simple}", f"{{type: redis, redis: {{url: [{hidden}]}}}}"),
        MANIFEST.replace("sqlite:///x", f"{hidden}"),
    ]
    for text in texts:
        assert hidden not in "\n".join(messages(text))


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (SpecProblem("f", "w", "r", line=3, file="x.yaml"), "x.yaml:3: f: w; r"),
        (SpecProblem("f", "w", "r", line=3), "<text>:3: f: w; r"),
        (SpecProblem("f", "w", "r"), "f: w; r"),
        (SpecProblem("", "w", "r", file="x.yaml"), "x.yaml: w; r"),
    ],
)
def test_the_shape_of_a_message(problem, text):
    assert str(problem) == text


def test_secret_data_is_decoded():
    encoded = base64.b64encode(b"sqlite:///y").decode()
    text = MANIFEST.replace('stringData: {uri: "sqlite:///x"}', f"data: {{uri: {encoded}}}")
    assert load_deployment(text).control_plane.state_store_uri == "sqlite:///y"
