"""A plain client of an API server, for what tests set up and look at."""

from __future__ import annotations

import base64
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class ApiRefusedError(Exception):
    """The API server's answer was an error.

    Attributes:
        status: HTTP status.
        body: the ``Status`` object, or text.
    """

    def __init__(self, method: str, path: str, status: int, body: Any) -> None:
        message = body.get("message", "") if isinstance(body, dict) else body
        super().__init__(f"{method} {path}: {status} {message}")
        self.status = status
        self.body = body
        self.message = str(message)


class Api:
    """Requests with the credentials of a kubeconfig's current context.

    Args:
        kubeconfig: a file; tokens and client certificates are understood, exec plugins are not.

    Attributes:
        server: the URL, without a slash at the end.
        headers, tls: what a connection of another kind needs too.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        cluster, user = _current(kubeconfig)
        self.server = str(cluster["server"]).rstrip("/")
        self.headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self.tls = _tls(kubeconfig, cluster, user)
        self._client = httpx.Client(
            base_url=self.server,
            verify=self.tls,
            headers=self.headers,
            timeout=30,
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: dict[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Any:
        """The decoded answer.

        Raises:
            ApiRefusedError: a status of 400 or more.
            httpx.HTTPError: no answer.
        """
        headers = {"Accept": accept, "Content-Type": content_type}
        answer = self._client.request(
            method, path, json=body, params=params or {}, headers=headers
        )  # JSON is YAML, so an apply takes it too
        is_json = answer.headers.get("content-type", "").startswith(JSON)
        content = answer.json() if is_json else answer.text
        if answer.status_code >= 400:
            raise ApiRefusedError(method, path, answer.status_code, content)
        return content

    def apply(self, path: str, body: dict[str, Any], manager: str = "tests") -> Any:
        """Server-side apply, conflicts forced."""
        params = {"fieldManager": manager, "force": "true"}
        return self.request("PATCH", path, body, params=params, content_type=APPLY)

    def install_crds(self, *files: Path) -> None:
        """Apply custom resource definitions and wait until they are served."""
        root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for file in files:
            crd = yaml.safe_load(file.read_text())
            self.apply(f"{root}/{crd['metadata']['name']}", crd)
            spec = crd["spec"]
            group, version = spec["group"], spec["versions"][0]["name"]
            path = f"/apis/{group}/{version}/{spec['names']['plural']}"
            wait_for(lambda path=path: self._answers(path), 30, f"{path} is served")  # type: ignore[misc]

    def _answers(self, path: str) -> bool:
        try:
            self.request("GET", path, params={"limit": "1"})
        except (ApiRefusedError, httpx.HTTPError):
            return False
        return True


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of ``condition``.

    Raises:
        AssertionError: none within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return found


def _current(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config = yaml.safe_load(kubeconfig.read_text())

    def named(kind: str, name: str) -> dict[str, Any]:
        found = next(item for item in config[f"{kind}s"] if item["name"] == name)
        return dict(found[kind])

    context = named("context", config["current-context"])
    return named("cluster", context["cluster"]), named("user", context["user"])


def _tls(kubeconfig: Path, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=_text(kubeconfig, cluster, "certificate-authority"))
    # Go's self-signed serving certificates lack what Python asks for by default since 3.13.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate = _text(kubeconfig, user, "client-certificate")
    if certificate is not None:
        key = _text(kubeconfig, user, "client-key") or ""
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(certificate + "\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _text(kubeconfig: Path, section: dict[str, Any], key: str) -> str | None:
    if f"{key}-data" in section:
        return base64.b64decode(section[f"{key}-data"]).decode()
    if key in section:
        return (kubeconfig.parent / section[key]).read_text()
    return None
