"""The 0.8.1 deployment file: every key of it, and those added since."""

from __future__ import annotations

import pytest

from llamadeploy.spec import DeploymentSpec, load_deployment, load_deployments
from llamadeploy.types import ServiceOptions, SessionPolicy

FULL = """
name: QuickStart
control-plane:
  services_store_key: s
  tasks_store_key: t
  session_store_key: ss
  step_interval: 0.5
  host: 127.0.0.9
  port: 8010
  internal_host: 0.0.0.0
  internal_port: 8011
  running: false
  cors_origins: ["*"]
  topic_namespace: mine
  state_store_uri: sqlite:///state.db
  use_tls: true
message-queue:
  type: simple
  host: 127.0.0.8
  port: 8021
  client_kwargs: {timeout: 3}
  raise_exceptions: true
  use_ssl: true
default-service: echo
services:
  echo:
    name: Echo Service
    description: Says it again.
    source: {type: local, name: ./src}
    path: src/workflow:echo_workflow
    host: localhost
    port: 8002
    env: {GREETING: hello}
    env-files: [./.env]
    python-dependencies: ["httpx>=0.27", "-r requirements.txt"]
    ts-dependencies: {react: ^18}
    replicas: 3
    timeout: 10
    wait-timeout: 86400
    queue-timeout: 0.5
    max-retries: 1
    retry-on-error: true
    broadcast: true
    max-concurrent-tasks: 4
    session-policy: reject
ui:
  name: My UI
  source: {type: git, name: "https://example.com/ui.git@main"}
  port: 3000
"""

MINIMAL = """
name: d
control-plane: {}
services:
  a: {name: A, source: {type: local, name: src}, path: "workflow:w"}
"""


def with_queue(text: str) -> DeploymentSpec:
    return load_deployment(f"{MINIMAL}\nmessage-queue: {text}\n")


def with_source(text: str) -> DeploymentSpec:
    return load_deployment(MINIMAL.replace("{type: local, name: src}", text))


def test_control_plane():
    assert load_deployment(FULL).control_plane.model_dump() == {
        "services_store_key": "s",
        "tasks_store_key": "t",
        "session_store_key": "ss",
        "step_interval": 0.5,
        "host": "127.0.0.9",
        "port": 8010,
        "internal_host": "0.0.0.0",
        "internal_port": 8011,
        "running": False,
        "cors_origins": ["*"],
        "topic_namespace": "mine",
        "state_store_uri": "sqlite:///state.db",
        "use_tls": True,
    }


def test_service():
    service = load_deployment(FULL).services["echo"]
    assert service.model_dump(exclude={"source"}) == {
        "name": "echo",  # the key, not `name`, is the name on the wire, as in 0.8.1
        "description": "Says it again.",
        "path": "src/workflow:echo_workflow",
        "host": "localhost",
        "port": 8002,
        "env": {"GREETING": "hello"},
        "secret_env": [],
        "env_files": ["./.env"],
        "python_dependencies": ["httpx>=0.27", "-r requirements.txt"],
        "ts_dependencies": {"react": "^18"},
        "replicas": 3,
        "timeout": 10,
        "wait_timeout": 86400,
        "queue_timeout": 0.5,
        "max_retries": 1,
        "retry_on_error": True,
        "broadcast": True,
        "max_concurrent_tasks": 4,
        "session_policy": "reject",
    }
    assert (service.source.type, service.source.name) == ("local", "src")


def test_top_level_and_ui():
    spec = load_deployment(FULL)
    assert (spec.name, spec.default_service, list(spec.services)) == (
        "QuickStart",
        "echo",
        ["echo"],
    )
    assert spec.message_queue.type == "simple"
    assert spec.message_queue.options == {
        "host": "127.0.0.8",
        "port": 8021,
        "client_kwargs": {"timeout": 3},
        "raise_exceptions": True,
        "use_ssl": True,
    }
    assert spec.ui is not None
    assert (spec.ui.name, spec.ui.port, spec.ui.source.ref) == ("My UI", 3000, "main")
    assert spec.ignored == []


def test_defaults():
    spec = load_deployment(MINIMAL)
    plane, service = spec.control_plane, spec.services["a"]
    assert (plane.port, plane.state_store_uri, plane.topic_namespace) == (None, None, None)
    assert (spec.message_queue.type, spec.message_queue.options) == ("simple", {})
    assert (spec.default_service, spec.ui) == (None, None)
    assert (service.replicas, service.max_concurrent_tasks, service.max_retries) == (1, 8, 3)
    assert service.options == ServiceOptions(session_policy=SessionPolicy.ENQUEUE)


def test_options_carry_what_a_control_plane_must_know():
    assert load_deployment(FULL).services["echo"].options == ServiceOptions(
        session_policy=SessionPolicy.REJECT,
        timeout=10,
        wait_timeout=86400,
        queue_timeout=0.5,
        max_retries=1,
        retry_on_error=True,
        broadcast=True,
    )


def test_empty_sections_mean_their_defaults():
    spec = load_deployment("name: d\ncontrol-plane:\nmessage-queue:\nservices: {}\n")
    assert spec == load_deployment("name: d\ncontrol-plane: {}\nservices: {}\n")


def test_numbers_as_text_are_taken_as_0_8_1_takes_them():
    assert load_deployment(FULL.replace("port: 8010", "port: '8010'")).control_plane.port == 8010


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("{type: redis}", {}),
        ("{type: redis, url: 'redis://h:1'}", {"url": "redis://h:1"}),
        (
            "{type: redis, host: h, port: 1, db: 2, username: u, password: 'p@s', ssl: true,"
            " exclusive_mode: true}",
            {"url": "rediss://u:p%40s@h:1/2", "exclusive_mode": True},
        ),
        ("{type: redis, host: h}", {"url": "redis://h:6379"}),
        ("{type: redis, host: h, password: p}", {"url": "redis://:p@h:6379"}),
        (
            "{type: rabbitmq, url: 'amqp://h', exchange_name: x}",
            {"url": "amqp://h", "exchange_name": "x"},
        ),
        (
            "{type: rabbitmq, host: h, port: 1, username: u, password: p, vhost: v, secure: true}",
            {"url": "amqps://u:p@h:1/v"},
        ),
        ("{type: kafka, host: h, port: 1}", {"url": "h:1"}),
        ("{type: kafka, url: 'h:2'}", {"url": "h:2"}),
        (
            "{type: aws, aws_region: eu-west-1, aws_access_key_id: k, aws_secret_access_key: s}",
            {
                "aws_region": "eu-west-1",
                "aws_access_key_id": "k",
                "aws_secret_access_key": "s",
            },
        ),
        ("{type: solace, host: h, vpn_name: v, username: u, password: p}", None),
    ],
)
def test_message_queues(text, options):
    queue = with_queue(text).message_queue
    assert text.startswith(f"{{type: {queue.type}")
    if options is not None:
        assert queue.options == options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{type: local, location: ./src}", {"type": "local", "name": "src"}),
        ("{type: docker, name: 'r/x:1'}", {"type": "image", "image": "r/x:1"}),
        (
            "{type: git, name: 'https://host/o/r.git'}",
            {"type": "git", "url": "https://host/o/r.git"},
        ),
        (
            "{type: git, name: 'https://host/o/r.git@feature/x'}",
            {"type": "git", "url": "https://host/o/r.git", "ref": "feature/x"},
        ),
        (
            "{type: git, name: 'git@host:o/r.git'}",
            {"type": "git", "url": "git@host:o/r.git"},
        ),
        (
            "{type: git, name: 'git@host:o/r.git@v1'}",
            {"type": "git", "url": "git@host:o/r.git", "ref": "v1"},
        ),
        (
            "{type: git, name: 'https://u:p%40@host/o/r@v1'}",
            {
                "type": "git",
                "url": "https://host/o/r",
                "ref": "v1",
                "credentials": {"username": "u", "password": "p@"},
            },
        ),
    ],
)
def test_sources(text, expected):
    source = with_source(text).services["a"].source
    assert source.model_dump(exclude_defaults=True) == expected


def test_import_path_is_another_name_of_path():
    spec = load_deployment(MINIMAL.replace("path: ", "import-path: "))
    assert spec.services["a"].path == "workflow:w"


def test_several_files_in_one_text():
    text = MINIMAL + "---\n" + MINIMAL.replace("name: d", "name: e")
    assert [spec.name for spec in load_deployments(text)] == ["d", "e"]


def test_nothing_confidential_is_in_the_repr():
    secrets = ("pw-store", "pw-queue", "pw-env", "pw-git")
    text = """
name: d
control-plane: {state_store_uri: "redis://u:pw-store@h"}
message-queue: {type: redis, host: h, password: pw-queue}
services:
  a:
    name: a
    source: {type: git, name: "https://u:pw-git@h/r"}
    path: w:w
    env: {KEY: pw-env}
"""
    spec = load_deployment(text)
    assert spec.control_plane.state_store_uri == "redis://u:pw-store@h"
    for secret in secrets:
        assert secret in str(spec.model_dump())
        assert secret not in repr(spec)


def test_aliases_and_merge_keys():
    text = """
name: d
control-plane: {}
services:
  a: &base {name: A, source: {type: local, name: src}, path: "w:a"}
  b: {<<: *base, path: "w:b"}
"""
    spec = load_deployment(text)
    assert [service.path for service in spec.services.values()] == ["w:a", "w:b"]
