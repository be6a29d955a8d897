"""Credentials with few rights on a cluster whose users are not ours to make."""

from __future__ import annotations

from pathlib import Path

import yaml

from e2e.cluster.api import Api, ApiRefusedError

TOKEN_SECONDS = 4 * 3600
"""Longer than a test run."""


def service_account_kubeconfig(api: Api, namespace: str, name: str, folder: Path) -> Path:
    """Make a ServiceAccount where there is none; gives a kubeconfig with a token of it.

    Args:
        api: of an administrator; the namespace is there.
    """
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    try:
        api.request("POST", accounts, {"metadata": {"name": name}})
    except ApiRefusedError as error:
        if error.status != 409:
            raise
    wish = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    answer = api.request("POST", f"{accounts}/{name}/token", wish)
    config = yaml.safe_load(api.kubeconfig.read_text())
    current = config["current-context"]
    context = next(each for each in config["contexts"] if each["name"] == current)
    cluster = next(
        each for each in config["clusters"] if each["name"] == context["context"]["cluster"]
    )
    authority = cluster["cluster"].get("certificate-authority")
    if authority is not None:
        # Relative to the file that names it.
        found = api.kubeconfig.resolve().parent / authority
        cluster = {
            **cluster,
            "cluster": {**cluster["cluster"], "certificate-authority": str(found)},
        }
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [cluster],
        "users": [{"name": name, "user": {"token": answer["status"]["token"]}}],
        "contexts": [{"name": name, "context": {"cluster": cluster["name"], "user": name}}],
    }
    path = folder / f"{name}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(made))
    return path
