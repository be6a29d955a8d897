"""Where the API server is and who we are."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamadeploy_operator.cluster import credentials
from llamadeploy_operator.cluster.api import ApiError, connect
from llamadeploy_operator.cluster.credentials import Credentials, CredentialsError, find


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> dict[str, str]:
    """Write one; gives the environment that names it."""
    entry = {"server": "https://10.1.2.3:6443/", **cluster}
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": entry}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return {"KUBECONFIG": str(path)}


def program(path: Path, status: dict[str, Any], code: int = 0) -> dict[str, Any]:
    """An ``exec`` user whose program counts its calls in a file beside it."""
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"open({str(path)!r} + '.calls', 'a').write('x')\n"
        "assert 'ExecCredential' in os.environ['KUBERNETES_EXEC_INFO']\n"
        "sys.stderr.write('not logged in')\n"
        f"print({json.dumps({'kind': 'ExecCredential', 'status': status})!r})\nsys.exit({code})\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path)}}


async def test_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.crt").write_text("PEM")
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    found = find({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert (found.server, found.authority) == ("https://[fd00::1]:443", "PEM")
    assert await found.authorization() == ("Bearer", "first")
    (tmp_path / "token").write_text("second")
    assert await found.authorization() == ("Bearer", "first"), "not read for each request"
    found.until = 0
    assert await found.authorization() == ("Bearer", "second")


async def test_kubeconfig_wins_in_a_pod(tmp_path: Path) -> None:
    environ = kubeconfig(tmp_path / "config", {"username": "me", "password": "pä:ss"})
    found = find({**environ, "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert found.server == "https://10.1.2.3:6443"
    expected = base64.b64encode("me:pä:ss".encode()).decode()
    assert await found.authorization() == ("Basic", expected)
    assert "pä" not in repr(found)


async def test_files_beside_the_kubeconfig_and_proxy(tmp_path: Path) -> None:
    for name in ("ca.pem", "token"):
        (tmp_path / name).write_text(name)
    environ = kubeconfig(
        tmp_path / "config", {"tokenFile": "token", "token": "stale"},
        **{"certificate-authority": "ca.pem", "proxy-url": "http://proxy:3128"},
    )  # fmt: skip
    found = find(environ)
    assert (found.authority, found.proxy) == ("ca.pem", "http://proxy:3128")
    assert await found.authorization() == ("Bearer", "token")


async def test_several_kubeconfigs_are_one(tmp_path: Path) -> None:
    kubeconfig(tmp_path / "b", {"token": "b"})
    (tmp_path / "a").write_text(yaml.safe_dump({"users": [{"name": "u", "user": {"token": "a"}}]}))
    found = find({"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/missing:{tmp_path}/b"})
    assert await found.authorization() == ("Bearer", "a")


async def test_program(tmp_path: Path) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    status = {"token": "t", "expirationTimestamp": end.isoformat().replace("+00:00", "Z")}
    found = find(kubeconfig(tmp_path / "config", program(tmp_path / "login", status)))
    for _ in range(2):
        assert await found.authorization() == ("Bearer", "t")
    assert (tmp_path / "login.calls").read_text() == "x"
    assert abs(found.until - (end.timestamp() - credentials.EARLY_SECONDS)) < 1
    found.until = 0
    await found.authorization()
    assert (tmp_path / "login.calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("status", "code", "complaint"),
    [({}, 0, "no ExecCredential with a token"), ({"token": "t"}, 3, "ended with 3: not logged in")],
)
async def test_program_fails(
    tmp_path: Path, status: dict[str, Any], code: int, complaint: str
) -> None:
    found = find(kubeconfig(tmp_path / "config", program(tmp_path / "login", status, code)))
    with pytest.raises(CredentialsError, match=complaint):
        await found.authorization()


async def test_program_is_missing_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = {"exec": {"command": str(tmp_path / "none"), "installHint": "Install the cloud's tools"}}
    environ = kubeconfig(tmp_path / "config", user)
    monkeypatch.setenv("KUBECONFIG", environ["KUBECONFIG"])
    api = await connect()
    try:
        with pytest.raises(ApiError, match=r"NoCredentials.*Install the cloud's tools"):
            await api.request("GET", "/version")
    finally:
        await api.aclose()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"current-context": None}, "current-context is not set"),
        ({"current-context": "other"}, "no context 'other'"),
        ({"clusters": None}, "no cluster 'k'"),
        ({"users": [{"name": "u", "user": {"auth-provider": {}, "x": 1}}]}, None),
        ({"users": [{"name": "u", "user": {"auth-provider": {"name": "gcp"}}}]}, "use exec"),
        ({"clusters": [{"name": "k", "cluster": {}}]}, "cluster k has no server"),
        (
            {"users": [{"name": "u", "user": {"client-key-data": "!"}}]},
            "client-key-data is not PEM",
        ),
    ],
)
def test_wrong_kubeconfig(tmp_path: Path, change: dict[str, Any], complaint: str | None) -> None:
    path = tmp_path / "config"
    environ = kubeconfig(path, {"token": "t"})
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    if complaint is None:
        assert find(environ).server
        return
    with pytest.raises(CredentialsError, match=complaint) as caught:
        find(environ)
    assert str(path) in str(caught.value)


def test_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="not in a pod, and there is no kubeconfig"):
        find({"KUBECONFIG": str(tmp_path / "none")})


def test_tls() -> None:
    strict = Credentials("https://x").tls()
    assert strict.verify_mode == ssl.CERT_REQUIRED
    assert strict.check_hostname
    assert Credentials("https://x", insecure=True).tls().verify_mode == ssl.CERT_NONE
