"""Where the API server is and who we are: of the pod's ServiceAccount, or of a kubeconfig.

Ours, because the Kubernetes client library is 126 MB of generated classes of which nothing else
would be used. A kubeconfig may use a token, a token's file, a client certificate, a password, or a
program (``exec``, as EKS, GKE and AKS do); the ``auth-provider`` that Kubernetes 1.26 removed is
refused.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Seconds for which a token is used before its file is read again: the kubelet renews it.
TOKEN_SECONDS = 60.0
#: Seconds before its end at which the token of a program is fetched anew.
EARLY_SECONDS = 60.0
#: Seconds that a program may take.
PROGRAM_TIMEOUT = 60.0


class CredentialsError(Exception):
    """There is no cluster to speak to, or its kubeconfig is wrong; the message names the file."""


@dataclass
class Credentials:
    """An API server and how to speak to it; everything secret is left out of its repr.

    Attributes:
        server: URL without a slash at the end.
        authority: PEM text of who signed its certificate; None: the system's authorities.
        certificate, key: PEM texts of ours; None without.
        proxy: URL; None without.
    """

    server: str
    authority: str | None = None
    insecure: bool = False
    certificate: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    password: tuple[str, str] | None = field(default=None, repr=False)
    program: Json | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    until: float = field(default=float("inf"), repr=False)  # time.time() from which on it is old

    async def authorization(self) -> tuple[str, str] | None:
        """Scheme and value of the header ``Authorization``.

        Raises:
            CredentialsError: a program failed; a file cannot be read.
        """
        if self.password is not None:
            return "Basic", base64.b64encode(":".join(self.password).encode()).decode()
        if self.token is None or time.time() >= self.until:
            await self._renew()
        return None if self.token is None else ("Bearer", self.token)

    def tls(self) -> ssl.SSLContext:
        """A context for connections to the server."""
        context = ssl.create_default_context(cadata=self.authority)
        # Authorities of clusters are made by many tools; Go's clients do not ask for this either.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None and self.key is not None:
            with ExitStack() as stack:  # ssl reads them from files only
                paths = []
                for text in (self.certificate, self.key):
                    file = stack.enter_context(tempfile.NamedTemporaryFile("w"))
                    file.write(text)
                    file.flush()
                    paths.append(file.name)
                context.load_cert_chain(*paths)
        return context

    async def _renew(self) -> None:
        if self.token_file is not None:
            self.token = _read(self.token_file).strip()
            self.until = time.time() + TOKEN_SECONDS
        elif self.program is not None:
            self.token, self.until = await _ask(self.program)


def find(environ: Mapping[str, str] = os.environ) -> Credentials:
    """Of ``KUBECONFIG``, of the pod that we run in, or of ``~/.kube/config``, in this order.

    Raises:
        CredentialsError: there are none, or they are wrong.
    """
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if host and not environ.get("KUBECONFIG"):
        bracketed = f"[{host}]" if ":" in host else host
        return Credentials(
            server=f"https://{bracketed}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}",
            authority=_read(SERVICE_ACCOUNT / "ca.crt"),
            token_file=SERVICE_ACCOUNT / "token",
        )
    given = environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    return from_kubeconfig([Path(part) for part in given.split(os.pathsep) if part])


def from_kubeconfig(paths: list[Path]) -> Credentials:
    """The current context of kubeconfigs; of what several of them define the first counts.

    Raises:
        CredentialsError: none of the files is there, or an entry is wrong.
    """
    where = os.pathsep.join(str(path) for path in paths)
    files = [(path, _load(path)) for path in paths if path.exists()]
    if not files:
        raise CredentialsError(f"no cluster: not in a pod, and there is no kubeconfig {where}")
    current = next((text for _, body in files if (text := body.get("current-context"))), None)
    if current is None:
        raise CredentialsError(f"{where}: current-context is not set; `kubectl config use-context`")
    _, context = _named(files, "context", str(current), where)
    home, cluster = _named(files, "cluster", str(context.get("cluster")), where)
    user_home, user = _named(files, "user", str(context.get("user")), where)
    if not cluster.get("server"):
        raise CredentialsError(f"{home}: cluster {context['cluster']} has no server")
    if user.get("auth-provider"):
        raise CredentialsError(f"{user_home}: auth-provider is not supported; use exec")
    if cluster.get("tls-server-name"):
        raise CredentialsError(f"{home}: tls-server-name is not supported")
    password = (user["username"], user.get("password", "")) if user.get("username") else None
    token_file = user.get("tokenFile")
    return Credentials(
        server=cluster["server"].rstrip("/"),
        authority=_pem(home, cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        certificate=_pem(user_home, user, "client-certificate"),
        key=_pem(user_home, user, "client-key"),
        proxy=cluster.get("proxy-url"),
        token_file=user_home.parent / token_file if token_file else None,
        password=password,
        program=user.get("exec"),
        token=None if token_file else user.get("token"),
    )


def _named(files: list[tuple[Path, Json]], kind: str, name: str, where: str) -> tuple[Path, Json]:
    """The file and the content of a named entry."""
    for path, body in files:
        for entry in body.get(f"{kind}s") or []:
            if entry.get("name") == name:
                return path, entry.get(kind) or {}
    raise CredentialsError(f"{where}: there is no {kind} {name!r}")


def _pem(home: Path, entry: Json, name: str) -> str | None:
    """An entry's text, from within or from the file it names (relative to the kubeconfig)."""
    if data := entry.get(f"{name}-data"):
        try:
            return base64.b64decode(data, validate=True).decode("ascii")
        except ValueError as error:
            raise CredentialsError(f"{home}: {name}-data is not PEM in base64") from error
    return _read(home.parent / entry[name]) if entry.get(name) else None


def _load(path: Path) -> Json:
    try:
        body = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise CredentialsError(f"{path}: {error}") from error
    if not isinstance(body, dict):
        raise CredentialsError(f"{path}: a kubeconfig is a mapping, this is {type(body).__name__}")
    return body


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{path} cannot be read: {error}") from error


async def _ask(program: Json) -> tuple[str, float]:
    """A token of a credential program, and until when (``time.time()``) to use it."""
    version = program.get("apiVersion", "client.authentication.k8s.io/v1")
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environ = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    environ |= {item["name"]: item["value"] for item in program.get("env") or []}
    name = str(program.get("command"))
    try:
        process = await asyncio.create_subprocess_exec(
            name, *(program.get("args") or []), env=environ, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        hint = program.get("installHint", "")
        raise CredentialsError(f"exec: {name} cannot be started: {error}. {hint}") from error
    try:
        out, complaint = await asyncio.wait_for(process.communicate(), PROGRAM_TIMEOUT)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise CredentialsError(f"exec: {name} took over {PROGRAM_TIMEOUT:.0f} s") from error
    if process.returncode:
        text = complaint.decode(errors="replace")[-500:]
        raise CredentialsError(f"exec: {name} ended with {process.returncode}: {text}")
    return _status(name, out)


def _status(name: str, out: bytes) -> tuple[str, float]:
    try:
        status = json.loads(out)["status"]
        token, end = status["token"], status.get("expirationTimestamp")
        until = datetime.fromisoformat(end).timestamp() - EARLY_SECONDS if end else float("inf")
    except (ValueError, KeyError, TypeError) as error:
        # Not the text itself: it may hold the token.
        raise CredentialsError(f"exec: {name} gave no ExecCredential with a token") from error
    return token, until
