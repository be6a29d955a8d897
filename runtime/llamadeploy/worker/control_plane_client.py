"""A worker's connection to its control plane: one session, kept alive."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from llamadeploy.exceptions import ConfigurationError, StoreError, StoreUnavailableError
from llamadeploy.http.client import HttpClient, HttpConnectionError
from llamadeploy.types import ServiceDefinition
from llamadeploy.worker.backoff import Backoff
from llamadeploy.worker.operations import CALL_PATH, ERRORS, RESULTS_PATH, CallReply, CallRequest

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for one request. A call that takes longer is repeated, which every call allows."""

RESULT_WAIT = 20.0
"""Seconds of one long poll for a called task's result."""


class ControlPlaneClient:
    """HTTP calls to one control plane, all on one loop.

    Args:
        url: base URL, such as ``http://127.0.0.1:8000``.
        token: the deployment's API token, ``None`` where there is none.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = HttpClient(self._url, {"Authorization": f"Bearer {token}"} if token else None)

    @property
    def url(self) -> str:
        """The control plane's base URL."""
        return self._url

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float = TIMEOUT
    ) -> bytes:
        """One request; the body of a 200.

        Raises:
            StoreUnavailableError: not reachable, too slow, not one of ours, or token refused:
                all of them pass when the control plane is back or its new one has started.
            StoreError: the request was refused; the text has the control plane's reason.
            NotFoundError, ConflictError, ServiceCallError: as the control plane says.
        """
        try:
            reply = await self._http.request(method, path, body, timeout=timeout)
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"the control plane did not answer within {timeout:g} s"
            ) from error
        except HttpConnectionError as error:
            raise StoreUnavailableError(f"the control plane is not reachable: {error}") from error
        if reply.status == 200:
            return reply.body
        raise _refusal(reply.status, reply.body)

    async def queue_config(self) -> dict[str, Any]:
        """The message queue's configuration, as ``{"SimpleMessageQueueConfig": {...}}``."""
        reply: dict[str, Any] = msgspec.json.decode(await self.request("GET", "/queue_config"))
        return reply

    async def register(self, service: ServiceDefinition) -> dict[str, Any]:
        """Register a service; the reply is the control plane's configuration."""
        body = service.model_dump_json().encode()
        reply: dict[str, Any] = msgspec.json.decode(
            await self.request("POST", "/services/register", body)
        )
        return reply

    async def register_when_up(self, service: ServiceDefinition) -> dict[str, Any]:
        """Register as soon as the control plane answers.

        Raises:
            ConfigurationError: it answered and refused.
        """
        backoff = Backoff(first=0.05, most=2.0)
        while True:
            try:
                return await self.register(service)
            except TokenRefused as error:
                raise ConfigurationError(str(error)) from error
            except StoreUnavailableError as error:
                log.info("waiting for the control plane at %s: %s", self._url, error)
                await asyncio.sleep(backoff.next())
            except StoreError as error:
                raise ConfigurationError(
                    f"the control plane refused service {service.service_name!r}: {error}"
                ) from error

    async def deregister(self, service_name: str) -> None:
        """Deregister a service; one that is not there is none."""
        from urllib.parse import quote

        await self.request("POST", f"/services/deregister?service_name={quote(service_name)}")

    async def call(self, request: CallRequest) -> str:
        """Create (or find) the task of a call to another service; its id."""
        body = msgspec.json.encode(request)
        return msgspec.json.decode(
            await self.request("POST", CALL_PATH, body), type=CallReply
        ).task_id

    async def result(self, task_id: str, wait: float = RESULT_WAIT) -> dict[str, Any] | None:
        """A task's ``TaskResult``; ``None`` when there is none yet after ``wait`` seconds."""
        reply: dict[str, Any] | None = msgspec.json.decode(
            await self.request(
                "GET", f"{RESULTS_PATH}/{task_id}?wait={wait:g}", timeout=wait + TIMEOUT
            )
        )
        return reply

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class TokenRefused(StoreUnavailableError):
    """The control plane does not take our token."""


def _refusal(status: int, content: bytes) -> Exception:
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = None
    detail = body.get("detail") if isinstance(body, dict) else None
    text = f"{detail or content[:200].decode(errors='replace')} (status {status})"
    if status in (401, 403):
        return TokenRefused(f"the control plane refused the API token: {text}")
    if isinstance(body, dict) and body.get("type") in ERRORS:
        return ERRORS[body["type"]](str(detail))
    if status >= 500 or detail is None:
        return StoreUnavailableError(f"the control plane cannot answer now: {text}")
    return StoreError(f"the control plane refused the request: {text}")
