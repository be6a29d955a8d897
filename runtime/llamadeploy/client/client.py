"""The entry of the SDK."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from pydantic import PrivateAttr, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from llamadeploy.client.apiserver import ApiServer
from llamadeploy.client.core import Core
from llamadeploy.client.sync import Portal, SyncProxy
from llamadeploy.client.transport import Transport


class Client(BaseSettings):
    """Access to an API server (``apiserver``) and to one control plane (``core``).

    Each setting may come from the environment with the prefix ``LLAMA_DEPLOY_``, for instance
    ``LLAMA_DEPLOY_API_SERVER_URL`` or ``LLAMA_DEPLOY_TOKEN``.

    Attributes:
        timeout: seconds for a reply, and for ``Session.run`` as a whole; ``None``: no limit.
        poll_interval: seconds between two questions for a result, where the server does not hold
            the question open itself.

    Example::

        client = Client()
        deployment = await client.apiserver.deployments.get("quickstart")
        print(await deployment.tasks.run(TaskDefinition(input='{"message": "hi"}')))

        # the same without async code:
        deployment = client.sync.apiserver.deployments.get("quickstart")
    """

    model_config = SettingsConfigDict(env_prefix="LLAMA_DEPLOY_", extra="ignore")

    api_server_url: str = "http://localhost:4501"
    control_plane_url: str = "http://localhost:8000"
    disable_ssl: bool = False
    timeout: float | None = 120.0
    poll_interval: float = 0.5
    token: SecretStr | None = None

    _transport: Transport = PrivateAttr()
    _portal: Portal | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        self.api_server_url = self.api_server_url.rstrip("/")
        self.control_plane_url = self.control_plane_url.rstrip("/")
        secret = self.token.get_secret_value() if self.token else None
        self._transport = Transport(self.timeout, not self.disable_ssl, secret)

    @property
    def transport(self) -> Transport:
        """The HTTP side, shared by all models of this client."""
        return self._transport

    @property
    def apiserver(self) -> ApiServer:
        """The API server: deployments and their tasks."""
        return ApiServer(self)

    @property
    def core(self) -> Core:
        """One control plane: its sessions and services."""
        return Core(self)

    @property
    def sync(self) -> Any:
        """The same client without ``await``: ``client.sync.apiserver``, ``client.sync.core``.

        Streams become ordinary iterators that yield as events arrive.

        Raises:
            RuntimeError: called inside a running event loop, which it would block.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._portal is None:
                self._portal = Portal()
            return SyncProxy(self, self._portal)
        raise RuntimeError(
            "client.sync cannot be used inside a running event loop: await the async methods"
        )

    async def aclose(self) -> None:
        """Close connections. A client that is simply dropped closes them by itself."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()
