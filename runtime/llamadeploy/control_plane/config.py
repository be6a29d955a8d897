"""Settings of a control plane in manual orchestration, as in LlamaDeploy 0.8.1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from llamadeploy.settings import HTTP_PORT

RETENTION_SECONDS = 86400.0
"""How long finished tasks are kept unless set otherwise: a day."""

_UNREAD_PREFIX = "LLAMADEPLOY_NEVER_SET_"


class ControlPlaneConfig(BaseSettings):
    """Read from arguments, else from ``CONTROL_PLANE_*``.

    The three store keys and ``step_interval`` are reported by ``GET /`` and kept for 0.8.1's
    clients; nothing is stored under them and nothing polls.
    """

    model_config = SettingsConfigDict(env_prefix="CONTROL_PLANE_", arbitrary_types_allowed=True)

    services_store_key: str = "services"
    tasks_store_key: str = "tasks"
    session_store_key: str = "sessions"
    step_interval: float = Field(0.1, ge=0, description="seconds; kept for 0.8.1's clients")
    host: str = Field("127.0.0.1", description="the address clients and services connect to")
    port: int = Field(HTTP_PORT, ge=0, le=65535, description="a port from 0 to 65535")
    internal_host: str | None = Field(None, description="the address to bind, where it differs")
    internal_port: int | None = Field(None, ge=0, le=65535, description="the port to bind")
    running: bool = True
    cors_origins: list[str] | None = Field(
        None, description='origins a browser may call from, such as ["https://example.org"]'
    )
    topic_namespace: str = Field("llama_deploy", description="prefix of topics and store keys")
    state_store_uri: str | None = Field(
        None, repr=False, description="a state store's URI; left out: in memory"
    )
    retention: float = Field(
        RETENTION_SECONDS,
        gt=0,
        allow_inf_nan=False,
        description="seconds for which finished tasks and idle sessions are kept",
    )
    use_tls: bool = Field(False, description="whether clients connect with https")

    @classmethod
    def without_environment(cls, **values: Any) -> Self:
        """Made from ``values`` and the defaults alone, as in a pod, where ``CONTROL_PLANE_PORT``
        may be a service link of Kubernetes."""
        return cls(_env_prefix=_UNREAD_PREFIX, **values)

    @property
    def url(self) -> str:
        """The base URL for clients, without a slash at the end."""
        return f"{'https' if self.use_tls else 'http'}://{self.host}:{self.port}"

    @property
    def bind_host(self) -> str:
        """The address to listen on."""
        return self.internal_host or self.host

    @property
    def bind_port(self) -> int:
        """The port to listen on."""
        return self.port if self.internal_port is None else self.internal_port

    def keys(self) -> Iterable[str]:
        """Field names, so that ``**config`` works."""
        return type(self).model_fields.keys()

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def public(self) -> dict[str, Any]:
        """The fields for a reply over HTTP: the store's URI may hold a password and is blanked, and
        what 0.8.1 does not know is left out: its model refuses other fields."""
        return {**self.model_dump(exclude={"retention"}), "state_store_uri": None}
