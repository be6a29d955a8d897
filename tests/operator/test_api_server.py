"""The API server of the tests is a real one."""

from __future__ import annotations

from typing import Any

from kubernetes.aio import client as kubernetes_client

from e2e.cluster.api import wait_for


async def test_both_clients_see_the_same(api_server: Any, api_client: Any, namespace: str) -> None:
    names = kubernetes_client.CoreV1Api(api_client)
    listed = await names.list_namespace()
    assert namespace in {item.metadata.name for item in listed.items}
    assert api_server.api.request("GET", f"/api/v1/namespaces/{namespace}")["kind"] == "Namespace"


def test_the_audit_log_counts_writes(api_server: Any, namespace: str) -> None:
    api_server.audit.mark()
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api_server.api.request("POST", path, {"metadata": {"name": "one"}})
    api_server.api.request("GET", f"{path}/one")
    writes = api_server.audit.writes(user="admin", namespace=namespace)
    assert writes == {("create", "configmaps"): 1}


def test_the_garbage_collector_works(api: Any, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    owner = api.request("POST", path, {"metadata": {"name": "owner"}})
    reference = {
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"],
    }  # fmt: skip
    child = {"metadata": {"name": "child", "ownerReferences": [reference]}}
    api.request("POST", path, child)
    api.request("DELETE", f"{path}/owner")
    names = {"owner", "child"}

    def left() -> set[str]:
        items = api.request("GET", path)["items"]
        return names & {item["metadata"]["name"] for item in items}

    wait_for(lambda: not left(), 30, "the child of a deleted owner is deleted")
