"""Commands in containers, by the API server's WebSocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from e2e.cluster.api import Api, ApiRefusedError

OPEN_SECONDS = 60.0
"""A kubelet on a busy machine takes its time to start a process."""

_STDOUT, _STDERR, _STATUS = 1, 2, 3


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Attributes:
        code: exit code; -1 where the connection ended before the command.
    """

    code: int
    stdout: str
    stderr: str


def run_in(
    api: Api,
    namespace: str,
    pod: str,
    command: list[str],
    *,
    container: str | None = None,
    seconds: float = 120.0,
    heard: Callable[[str], None] = lambda text: None,
) -> Done:
    """Run a command and wait for its end.

    Args:
        seconds: without a word from it, after which it is given up.
        heard: gets standard output as it comes.

    Raises:
        ApiRefusedError: no such pod, or the container does not run.
        TimeoutError: it is silent for too long.
    """
    words = [("command", word) for word in command]
    if container:
        words.append(("container", container))
    query = urlencode([*words, ("stdout", "true"), ("stderr", "true")])
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    url = f"{api.server.replace('https://', 'wss://')}{path}?{query}"
    texts: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: [], _STATUS: []}
    try:
        with connect(
            url, ssl=api.tls, additional_headers=api.headers, proxy=None, max_size=None,
            subprotocols=["v4.channel.k8s.io"],  # type: ignore[list-item]
            open_timeout=OPEN_SECONDS, ping_interval=None,
        ) as socket:  # fmt: skip
            while True:
                try:
                    message = socket.recv(timeout=seconds)
                except ConnectionClosed:
                    break
                assert isinstance(message, bytes)
                if message[:1] and message[0] in texts:
                    texts[message[0]].append(message[1:])
                    if message[0] == _STDOUT:
                        heard(message[1:].decode(errors="replace"))
    except InvalidStatus as error:
        body = (error.response.body or b"").decode(errors="replace")
        raise ApiRefusedError("EXEC", path, error.response.status_code, body) from None
    out, err, status = (b"".join(texts[each]).decode(errors="replace") for each in texts)
    return Done(_code(status), out, err)


def _code(status: str) -> int:
    if not status:
        return -1
    body = json.loads(status)
    if body.get("status") == "Success":
        return 0
    for cause in body.get("details", {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    return -1
