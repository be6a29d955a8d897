"""What the operator writes into pods is what the runtime's settings read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from llamadeploy.message_queues.registry import queue_type
from llamadeploy.preparing.document import SourceDocument
from llamadeploy.settings import PREFIX, PodSettings
from llamadeploy.signing import KeyRing
from llamadeploy_operator.desired import internal_secret, internal_value
from llamadeploy_operator.errors import SpecError

SERVICE = {"name": "echo", "source": {"configMap": {"name": "code"}}, "path": "echo:workflow"}


@pytest.fixture
def settings_of(environ_of: Callable[..., dict[str, str]]) -> Callable[..., PodSettings]:
    """The settings that the process in a workload's first container reads."""

    def _settings_of(case: Any, kind: str, name: str, *, init: bool = False) -> PodSettings:
        spec = case.child(kind, name)["spec"]["template"]["spec"]
        container = spec["initContainers" if init else "containers"][0]
        environ = environ_of(case, container)
        known = {PREFIX + field.upper() for field in PodSettings.model_fields}
        assert {each for each in environ if each.startswith(PREFIX)} <= known
        return PodSettings.from_env(environ)

    return _settings_of


def shown(value: Any) -> Any:
    return value.get_secret_value() if value is not None else None


CASES = ["quickstart", "redis_by_secret", "simple_memory", "git_credentials", "ui", "overlay"]


@pytest.mark.parametrize("name", CASES)
def test_every_process_can_read_its_settings(
    name: str, load: Callable[[str], Any], settings_of: Callable[..., PodSettings]
) -> None:
    case = load(name)
    seen = 0
    for child in case.children:
        component = child["metadata"]["labels"]["llamadeploy.io/component"]
        if child["kind"] != "Deployment" or component == "ui":
            continue
        settings = settings_of(case, "Deployment", child["metadata"]["name"])
        KeyRing.parse(shown(settings.signing_keys))
        assert shown(settings.api_token)
        assert settings.deployment == case.deployment.owner.name
        assert settings.namespace == f"team-a.{settings.deployment}"
        if settings.queue_type != "simple":
            config = queue_type(settings.queue_type).config
            options = settings.queue_options
            config.without_environment(url=shown(settings.queue_url), **options)
        if component == "worker":
            settings.require("service", "control_plane_url", "workflow_path", "source_dir",
                             "signing_keys", "queue_url", "replica")  # fmt: skip
        seen += 1
    assert seen >= 1


@pytest.mark.parametrize("name", CASES)
def test_preparing_reads_its_settings(
    name: str, load: Callable[[str], Any], settings_of: Callable[..., PodSettings]
) -> None:
    case = load(name)
    for child in case.children:
        template = child.get("spec", {}).get("template", {})
        for container in template.get("spec", {}).get("initContainers", []):
            settings = settings_of(case, child["kind"], child["metadata"]["name"], init=True)
            settings.require("source", "source_dir")
            SourceDocument.parse(settings.source)
            assert container["command"] == ["llamadeploy", "prepare"]
            assert shown(settings.index_url) == "https://reader:word@pypi.example.org/simple"


def test_addresses_of_managed_servers(
    load: Callable[[str], Any], settings_of: Callable[..., PodSettings]
) -> None:
    case = load("quickstart")
    plane = settings_of(case, "Deployment", "quickstart-control-plane")
    password = internal_value("queue-password", b"queue-password".ljust(32, b"."))
    assert shown(plane.queue_url) == (
        f"amqp://llamadeploy:{password}@quickstart-queue.team-a.svc:5672/"
    )
    password = internal_value("state-store-password", b"state-store-password".ljust(32, b"."))
    assert shown(plane.state_store_uri) == (
        f"redis://:{password}@quickstart-state-store.team-a.svc:6379/0"
    )
    assert plane.default_service == "dummy_workflow"
    worker = settings_of(case, "Deployment", "quickstart-echo-worker")
    assert worker.state_store_uri == plane.state_store_uri
    assert worker.control_plane_url == "http://quickstart-control-plane.team-a.svc:8000"


def test_a_queue_and_a_store_inside_the_control_plane(
    load: Callable[[str], Any], settings_of: Callable[..., PodSettings]
) -> None:
    case = load("simple_memory")
    plane = settings_of(case, "Deployment", "small-control-plane")
    assert shown(plane.state_store_uri) == "memory://"
    worker = settings_of(case, "Deployment", "small-echo-worker")
    assert worker.state_store_uri is None
    token = shown(plane.api_token)
    assert shown(worker.queue_url) == f"http://worker:{token}@small-control-plane.team-a.svc:8001"


def test_settings_of_a_service(
    load: Callable[[str], Any], settings_of: Callable[..., PodSettings]
) -> None:
    worker = settings_of(load("git_credentials"), "Deployment", "papers-worker")
    assert (worker.service, worker.workflow_path) == ("paper_search", "papers/search:workflow")
    assert str(worker.source_dir) == "/srv/llamadeploy/papers"
    assert (worker.max_concurrent_tasks, worker.session_policy) == (4, "parallel")
    assert (worker.wait_timeout_seconds, worker.queue_timeout_seconds) == (86400, 3600)
    assert (worker.max_retries, worker.retry_on_error) == (1, True)
    assert worker.task_timeout_seconds is None
    assert worker.queue_options == {"exclusive_mode": True}


def test_credentials_of_aws(
    case: Callable[..., Any], settings_of: Callable[..., PodSettings]
) -> None:
    aws = {
        "region": "eu-west-1",
        "accessKeyIdFrom": {"secretKeyRef": {"name": "aws", "key": "id"}},
        "secretAccessKeyFrom": {"secretKeyRef": {"name": "aws", "key": "key"}},
    }
    queue = {"type": "aws", "aws": aws}
    plane = settings_of(case({"messageQueue": queue}), "Deployment", "app-control-plane")
    assert plane.queue_options == {
        "aws_region": "eu-west-1",
        "aws_access_key_id": "AKIA123",
        "aws_secret_access_key": "abc/def+ghi",
    }
    queue_type("aws").config.without_environment(**plane.queue_options)


def test_the_users_text_is_not_expanded(
    case: Callable[..., Any], settings_of: Callable[..., PodSettings]
) -> None:
    source = {"git": {"url": "https://host/x.git", "ref": "$(LLAMADEPLOY_API_TOKEN)"}}
    found = case({"services": [{**SERVICE, "source": source}]})
    prepare = settings_of(found, "Deployment", "app-echo-worker", init=True)
    assert prepare.source is not None
    assert prepare.source["git"]["ref"] == "$(LLAMADEPLOY_API_TOKEN)"


def test_a_login_in_a_git_url_goes_through_a_secret(
    case: Callable[..., Any], settings_of: Callable[..., PodSettings]
) -> None:
    source = {"git": {"url": "https://user:pw@host/x.git"}}
    found = case({"services": [{**SERVICE, "source": source}]})
    prepare = settings_of(found, "Deployment", "app-echo-worker", init=True)
    assert prepare.source is not None and prepare.source["git"]["url"] == source["git"]["url"]
    public = [each for each in found.children if each["kind"] not in ("Secret", "WorkflowService")]
    assert "pw@" not in str(public)


def test_users_variables_follow_ours(
    load: Callable[[str], Any], environ_of: Callable[..., dict[str, str]]
) -> None:
    case = load("redis_by_secret")
    pod = case.child("Deployment", "broadcast-listener-worker")["spec"]["template"]["spec"]
    environ = environ_of(case, pod["containers"][0])
    assert (environ["GREETING"], environ["OPENAI_API_KEY"]) == ("hello", "sk-1")
    assert pod["containers"][0]["image"] == "registry.example.org/listener:1.4"
    assert "initContainers" not in pod
    assert environ["LLAMADEPLOY_SOURCE_DIR"] == "."


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ([{"name": "LLAMADEPLOY_API_TOKEN", "value": "x"}], r"env\[0\].*set by the operator"),
        ([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}], r"env\[1\].*appears twice"),
    ],
)
def test_refused_variables(case: Callable[..., Any], env: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _ = case({"services": [{**SERVICE, "env": env}]}).children


def test_a_queue_without_an_address(case: Callable[..., Any]) -> None:
    with pytest.raises(ValidationError, match="no address of a redis broker; give managed, redis"):
        case({"messageQueue": {"type": "redis"}})


def test_proxies_and_certificates(
    case: Callable[..., Any], environ_of: Callable[..., dict[str, str]]
) -> None:
    found = case(
        {"services": [SERVICE]}, http_proxy="http://proxy:3128", no_proxy="10.0.0.0/8",
        https_proxy="http://me:secret@proxy:3128", ca_bundle="-----BEGIN",
    )  # fmt: skip
    pod = found.child("Deployment", "app-echo-worker")["spec"]["template"]["spec"]
    for container in [*pod["initContainers"], *pod["containers"]]:
        environ = environ_of(found, container)
        assert environ["HTTP_PROXY"] == "http://proxy:3128"
        assert environ["HTTPS_PROXY"] == "http://me:secret@proxy:3128"
        assert environ["NO_PROXY"].endswith(".svc,.svc.cluster.local,10.0.0.0/8")
        assert environ["SSL_CERT_FILE"] == "/etc/llamadeploy/ca/ca.crt"
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts["ca"] == "/etc/llamadeploy/ca"
    config = found.child("ConfigMap", "app-config")
    assert config["data"]["ca.crt"] == "-----BEGIN"


def test_values_of_the_internal_secret() -> None:
    values = {key: internal_value(key, bytes(range(32))) for key in ("api-token", "signing-key")}
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", values["api-token"])
    KeyRing.parse(values["signing-key"])
    with pytest.raises(ValueError, match="got 8 bytes"):
        internal_value("api-token", bytes(8))


def test_the_internal_secret_outlives_a_retained_deployment(case: Callable[..., Any]) -> None:
    for policy, owned in (("Delete", True), ("Retain", False)):
        context = case({"deletionPolicy": policy}).deployment
        metadata = internal_secret(context, {"api-token": "x"})["metadata"]
        assert ("ownerReferences" in metadata) is owned
        assert "app.kubernetes.io/instance" not in metadata["labels"]
