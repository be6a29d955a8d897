"""The proxy that other tests break the API with does to a client what it says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.cluster.api import Api, ApiRefusedError, wait_for
from e2e.cluster.api_proxy import Request, parse


@pytest.fixture
def through(api_proxy: Any) -> Iterator[Api]:
    """A client that goes through the proxy."""
    client = Api(api_proxy.kubeconfig_for("admin"))
    yield client
    client.close()


class Watcher:
    """Reads a watch of ConfigMaps in a thread.

    Attributes:
        events: (type, name or code).
        error: how it ended; None while it goes on, ``""``: the stream was closed.
    """

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.events: list[tuple[str, Any]] = []
        self.error: str | None = None
        self._api = Api(kubeconfig)
        self._path = f"/api/v1/namespaces/{namespace}/configmaps?watch=1&resourceVersion=0"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            with self._api._client.stream("GET", self._path, timeout=httpx.Timeout(60)) as answer:
                for line in answer.iter_lines():
                    item = json.loads(line)
                    thing = item["object"]
                    name = thing.get("code") or thing["metadata"]["name"]
                    self.events.append((item["type"], name))
            self.error = ""
        except httpx.HTTPError as error:
            self.error = type(error).__name__


@pytest.fixture
def watcher(api_proxy: Any, namespace: str) -> Watcher:
    """An open watch."""
    watcher = Watcher(api_proxy.kubeconfig_for("admin"), namespace)
    wait_for(lambda: api_proxy.watching()["configmaps"], 20, "the watch is open")
    return watcher


def make(api: Api, namespace: str, name: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.request("POST", path, {"metadata": {"name": name}})


def test_it_passes_requests_and_counts_writes(
    api_proxy: Any, through: Api, namespace: str, watcher: Watcher
) -> None:
    api_proxy.mark()
    make(through, namespace, "one")
    wait_for(lambda: watcher.events == [("ADDED", "one")], 20, "the event")
    assert api_proxy.writes() == {("create", "configmaps"): 1}
    assert api_proxy.requests() == [Request("create", "configmaps", namespace)]


@pytest.mark.parametrize("code", [401, 403, 410, 500])
def test_a_watch_breaks_with_an_error_event(api_proxy: Any, watcher: Watcher, code: int) -> None:
    assert api_proxy.break_watches(code, resource="secrets") == 0
    assert api_proxy.break_watches(code, resource="configmaps") == 1
    wait_for(lambda: watcher.error is not None, 20, "the watch ends")
    assert watcher.events == [("ERROR", code)] and watcher.error == ""
    assert not api_proxy.watching()


def test_each_new_watch_breaks_until_it_is_healed(api_proxy: Any, namespace: str) -> None:
    api_proxy.break_watches(410, lasting=True)
    watcher = Watcher(api_proxy.kubeconfig_for("admin"), namespace)
    wait_for(lambda: watcher.error == "", 20, "the watch ends")
    assert watcher.events == [("ERROR", 410)]
    api_proxy.heal()
    watcher = Watcher(api_proxy.kubeconfig_for("admin"), namespace)
    wait_for(lambda: api_proxy.watching()["configmaps"], 20, "the watch is open")


def test_chosen_requests_fail(api_proxy: Any, through: Api, namespace: str) -> None:
    api_proxy.fail(403, resource="configmaps", verbs=("create",))
    with pytest.raises(ApiRefusedError) as refused:
        make(through, namespace, "one")
    assert refused.value.status == 403 and refused.value.body["reason"] == "Forbidden"
    through.request("GET", f"/api/v1/namespaces/{namespace}/configmaps")
    api_proxy.heal()
    make(through, namespace, "one")


def test_a_cut_resets_connections(
    api_proxy: Any, through: Api, namespace: str, watcher: Watcher
) -> None:
    api_proxy.cut()
    wait_for(lambda: watcher.error in ("ReadError", "RemoteProtocolError"), 20, "the watch is cut")
    make(Api(api_proxy.kubeconfig_for("admin")), namespace, "one")


def test_silence_ends_nothing_and_passes_nothing(
    api_proxy: Any, api: Api, namespace: str, watcher: Watcher
) -> None:
    api_proxy.silence()
    make(api, namespace, "one")
    fresh = Api(api_proxy.kubeconfig_for("admin"))
    with pytest.raises(httpx.TimeoutException):
        fresh._client.get("/version", timeout=1)
    assert watcher.events == [] and watcher.error is None
    api_proxy.heal()
    wait_for(lambda: watcher.events == [("ADDED", "one")], 20, "the event comes late")


def test_nobody_listens(api_proxy: Any, namespace: str) -> None:
    api_proxy.refuse()
    client = Api(api_proxy.kubeconfig_for("admin"))
    with pytest.raises(httpx.ConnectError):
        client.request("GET", "/version")
    api_proxy.heal()
    client.request("GET", "/version")


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, Request("list", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, Request("watch", "pods")),
        ("GET", "/api/v1/namespaces/n", {}, Request("get", "namespaces", "", "n")),
        ("POST", "/api/v1/namespaces/n/pods", {}, Request("create", "pods", "n")),
        ("DELETE", "/api/v1/namespaces/n/pods", {}, Request("deletecollection", "pods", "n")),
        ("GET", "/version", {}, Request("get", "")),
        (
            "PATCH",
            "/apis/llamadeploy.io/v1alpha1/namespaces/n/workflowservices/w/status",
            {},
            Request("patch", "workflowservices/status", "n", "w"),
        ),
    ],
)
def test_what_a_request_is_about(
    method: str, path: str, query: dict[str, str], expected: Request
) -> None:
    assert parse(method, path, query) == expected
