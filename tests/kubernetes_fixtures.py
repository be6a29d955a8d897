"""A real API server for the tests of the operator and of the charts.

By default one that the run starts itself (``e2e/cluster``: etcd, kube-apiserver and
kube-controller-manager on free loopback ports). ``LLAMADEPLOY_TEST_CLUSTER=existing`` takes the
cluster of ``KUBECONFIG`` instead; it gets our custom resource definitions, short-lived namespaces,
and, to stay, the operator's namespace with a ServiceAccount and its rights; tests that need the
audit log or a proxy are skipped. KUBECONFIG alone is not looked at, so that nobody's cluster is
written to by accident.
"""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from e2e.cluster.api import Api, ApiRefusedError  # noqa: E402
from e2e.cluster.api_proxy import ApiProxy  # noqa: E402
from e2e.cluster.audit import AuditLog  # noqa: E402
from e2e.cluster.build import (  # noqa: E402
    BuildUnavailableError,
    actionlint_binary,
    cluster_binary,
    dns_binary,
    helm_binary,
    kubectl_binary,
    kwok_binary,
)
from e2e.cluster.control_plane import ControlPlane  # noqa: E402
from e2e.cluster.service_account import service_account_kubeconfig  # noqa: E402
from e2e.cluster.simulated_nodes import SimulatedNodes  # noqa: E402
from e2e.operator_process import SYSTEM  # noqa: E402

CRDS = tuple(sorted((ROOT / "crds").glob("*.yaml")))


@dataclass(frozen=True)
class ApiServer:
    """The cluster of a test run.

    Attributes:
        kubeconfig: of an administrator.
        api: a plain client with those credentials.
        control_plane: its processes; None for an existing cluster.
        folder: for kubeconfigs of an existing cluster.
    """

    kubeconfig: Path
    api: Api
    control_plane: ControlPlane | None = None
    folder: Path | None = None

    @property
    def audit(self) -> AuditLog:
        """What was asked of it; the test is skipped where that cannot be known."""
        if self.control_plane is None or self.control_plane.audit is None:
            pytest.skip("an existing cluster's audit log is not at hand")
        return self.control_plane.audit

    def kubeconfig_for(self, user: str) -> Path:
        """Of a user of ``e2e.cluster.control_plane.USERS``; on an existing cluster, of the
        ServiceAccount of that name which is made there."""
        if self.control_plane is None:
            assert self.folder is not None
            return service_account_kubeconfig(self.api, SYSTEM, user, self.folder)
        return self.control_plane.kubeconfig_for(user)


def existing() -> Path | None:
    """The kubeconfig of the cluster to be used; None: start one."""
    wanted = os.environ.get("LLAMADEPLOY_TEST_CLUSTER", "local")
    if wanted == "local":
        return None
    if wanted != "existing" or not os.environ.get("KUBECONFIG"):
        pytest.exit("LLAMADEPLOY_TEST_CLUSTER: write local, or existing together with KUBECONFIG")
    return Path(os.environ["KUBECONFIG"])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test's time-out begins to run."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    builds = [
        ("own_control_plane", cluster_binary),
        ("local_cluster", cluster_binary),
        ("local_cluster", dns_binary),
        ("kwok", kwok_binary),
        ("empty_cluster", cluster_binary),
        ("helm", helm_binary),
        ("kubectl", kubectl_binary),
        ("actionlint", actionlint_binary),
    ]
    if existing() is None:
        builds.append(("api_server", cluster_binary))
    capture = session.config.pluginmanager.getplugin("capturemanager")
    for fixture, build in builds:
        if fixture in wanted and not session.config.option.collectonly:
            try:
                with capture.global_and_fixture_disabled():
                    build(lambda line: print(line, file=sys.stderr, flush=True))
            except BuildUnavailableError:
                pass  # the fixture says it


def _require(build: Callable[[], Path]) -> Path:
    try:
        return build()
    except BuildUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """The test run's cluster, with our custom resource definitions and no nodes."""
    given = existing()
    if given is not None:
        api = Api(given)
        api.install_crds(*CRDS)
        with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
            yield ApiServer(given, api, folder=Path(folder))
        api.close()
        return
    binary = _require(cluster_binary)
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        control_plane = ControlPlane(binary, Path(folder), audit=True)
        try:
            control_plane.start(CRDS)
            api = Api(control_plane.kubeconfig)
            yield ApiServer(control_plane.kubeconfig, api, control_plane)
            api.close()
        finally:
            control_plane.stop()


@pytest.fixture
def own_control_plane() -> Iterator[ControlPlane]:
    """A cluster of the test's own, started, which it may kill, freeze and restart."""
    binary = _require(cluster_binary)
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        control_plane = ControlPlane(binary, Path(folder), audit=True)
        try:
            control_plane.start(CRDS)
            yield control_plane
        finally:
            control_plane.stop()


@pytest.fixture
def api(api_server: ApiServer) -> Api:
    """A plain administrator's client."""
    return api_server.api


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of the test's own; deleted with all that is in it, without waiting for that."""
    name = f"t{uuid.uuid4().hex[:12]}"
    api_server.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    try:
        api_server.api.request("DELETE", f"/api/v1/namespaces/{name}")
    except ApiRefusedError as error:
        if error.status != 404:  # the test has deleted it
            raise


@pytest.fixture
async def api_client(api_server: ApiServer) -> AsyncIterator[Any]:
    """``kubernetes.aio.client.ApiClient`` of an administrator."""
    from kubernetes.aio import client as kubernetes_client  # slow to import, and seldom needed
    from kubernetes.aio import config as kubernetes_config

    configuration = kubernetes_client.Configuration()
    await kubernetes_config.load_kube_config(
        config_file=str(api_server.kubeconfig), client_configuration=configuration
    )
    async with kubernetes_client.ApiClient(configuration) as client:
        yield client


@pytest.fixture
def api_proxy(api_server: ApiServer) -> Iterator[ApiProxy]:
    """A proxy to the run's API server that breaks what the test wants broken."""
    if api_server.control_plane is None:
        pytest.skip("the proxy needs the certificate of a cluster that the run started")
    proxy = ApiProxy(api_server.control_plane)
    proxy.start()
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def kwok() -> Path:
    """The program of kwok, which makes pods Running without running anything."""
    return _require(kwok_binary)


@pytest.fixture(scope="session")
def helm() -> Path:
    """The program of Helm."""
    return _require(helm_binary)


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """The program of that name."""
    return _require(kubectl_binary)


@pytest.fixture(scope="session")
def actionlint() -> Path:
    """The program of that name."""
    return _require(actionlint_binary)


@pytest.fixture(scope="module")
def empty_cluster() -> Iterator[ControlPlane]:
    """A cluster of the module's own, without our definitions."""
    binary = _require(cluster_binary)
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        control_plane = ControlPlane(binary, Path(folder))
        try:
            control_plane.start(())
            yield control_plane
        finally:
            control_plane.stop()


@pytest.fixture(scope="module")
def simulated_nodes(api_server: ApiServer, kwok: Path) -> Iterator[SimulatedNodes | None]:
    """While a module's tests run, pods of the run's cluster become Running and ready; None: it has
    real nodes."""
    if api_server.control_plane is None:
        yield None
        return
    nodes = SimulatedNodes(api_server.control_plane, kwok)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()
