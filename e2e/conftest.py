"""Fixtures of the end-to-end scenarios (docs/contributing/e2e.md).

The cluster, with the charts installed, is shared by a run. Each test has a namespace of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from e2e.client_pod import ClientPod  # noqa: E402
from e2e.cluster.api import Api  # noqa: E402
from e2e.cluster.build import BuildUnavailableError, helm_binary  # noqa: E402
from e2e.collect import collect  # noqa: E402
from e2e.helm import SYSTEM, Helm  # noqa: E402
from e2e.images import ImageUnavailableError  # noqa: E402
from e2e.operator_process import Json  # noqa: E402
from e2e.providers import choose  # noqa: E402
from e2e.providers.base import Provider, ProviderUnavailableError  # noqa: E402
from e2e.space import Space  # noqa: E402

KEEP = os.environ.get("LLAMADEPLOY_E2E_KEEP") == "1"
"""Leave the operator where it is, and the namespaces of scenarios that have failed."""


FORM = "LLAMADEPLOY_E2E"
"""``full``: all scenarios; else the short form, and files that are named."""

SHORT = "test_short.py"

INDEX_URL = "http://index.llamadeploy-e2e.svc.cluster.local:8080/simple"
"""Of the package index that one scenario runs."""


def say(line: str) -> None:
    """Progress, past pytest's capture."""
    os.write(2, f"{line}\n".encode())


def refused(message: str) -> None:
    """The scenarios cannot run here: in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only the short form, unless all is asked for.

    Every wait has a deadline of its own; the time-out is for what nobody thought of. The first test
    waits for the cluster and the image too, which a fresh machine has to build.
    """
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.timeout(1800))
    if os.environ.get(FORM) != "full":
        wanted = [str(argument).split("::")[0] for argument in config.invocation_params.args]
        left_out = [
            item for item in mine
            if item.path.name != SHORT and not any(item.path.name in name for name in wanted)
        ]  # fmt: skip
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Tell the fixtures whether the test has failed."""
    report = yield
    if report.when == "call" or report.failed:
        setattr(item, "e2e_failed", report.failed)  # noqa: B010 - pytest's item is open for that
    if report.failed:
        say(f"\ne2e: {item.nodeid} has failed:\n{report.longreprtext[-1500:]}")
    return report


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """The run's cluster."""
    try:
        found = choose(say)
    except ProviderUnavailableError as error:
        refused(str(error))
        raise
    say(f"e2e: provider {found.name}")
    try:
        found.start()
        yield found
    except ProviderUnavailableError as error:
        refused(str(error))
    finally:
        found.stop()


@pytest.fixture(scope="session")
def api(provider: Provider) -> Iterator[Api]:
    """A plain administrator's client."""
    client = Api(provider.kubeconfig)
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(provider: Provider) -> Callable[[str], str]:
    """``images("app")``: the name of an image that the cluster has."""

    def of(name: str) -> str:
        try:
            return provider.image(name)
        except ImageUnavailableError as error:
            refused(str(error))
            raise

    return of


@pytest.fixture(scope="session")
def helm(provider: Provider) -> Helm:
    """Helm against the run's cluster."""
    try:
        return Helm(helm_binary(say), provider)
    except BuildUnavailableError as error:
        refused(str(error))
        raise


@pytest.fixture(scope="session")
def values(images: Callable[[str], str]) -> Json:
    """What the operator's chart is installed with."""
    repository, _, tag = images("app").rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "settings": {
            "redisImage": images("redis"),
            "imagePullPolicy": "IfNotPresent",
            "indexUrl": INDEX_URL,
            "logFormat": "text",
        },
    }


@pytest.fixture(scope="session")
def broker_values(operator: Json, helm: Helm, images: Callable[[str], str]) -> Json:
    """The values with RabbitMQ's image, installed: the short run needs Redis alone."""
    operator["settings"]["rabbitmqImage"] = images("rabbitmq")
    helm.upgrade("llamadeploy-operator", operator)
    return operator


@pytest.fixture
def provider_other_tag(provider: Provider) -> Callable[[], str]:
    """The product's image under another tag, when it is asked for."""

    def tag() -> str:
        try:
            return provider.other_tag()
        except ImageUnavailableError as error:
            pytest.skip(str(error))

    return tag


@pytest.fixture(scope="session")
def operator(helm: Helm, api: Api, values: Json) -> Iterator[Json]:
    """The charts, installed; gives the values."""
    try:
        helm.install(values)
    except AssertionError as error:
        place = collect(api, [SYSTEM], _place("install"))
        raise AssertionError(f"{error}\nsee {place}") from None
    yield values
    if not KEEP:
        helm.uninstall("llamadeploy-operator")


@pytest.fixture
def space(
    api: Api, operator: Json, images: Callable[[str], str], request: pytest.FixtureRequest
) -> Iterator[Space]:
    """A namespace of the test's own, which takes restricted pods only."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield Space(api, name, images("app"))
    failed = getattr(request.node, "e2e_failed", False)
    if failed:
        place = collect(api, [name, SYSTEM], _place(request.node.name))
        say(f"\ne2e: logs, events and objects are in {place}")
    if not (failed and KEEP):
        api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def client(space: Space) -> Callable[[str], ClientPod]:
    """``client("quickstart")``: a pod that uses that Deployment."""
    return lambda deployment: ClientPod(space, deployment).place()


def _place(name: str) -> Path:
    wanted = os.environ.get("LLAMADEPLOY_E2E_LOGS")
    base = Path(wanted) if wanted else Path(tempfile.gettempdir()) / "llamadeploy-e2e"
    return base / f"{name}-{uuid.uuid4().hex[:6]}"
