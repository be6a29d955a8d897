"""Settings of a workflow that is served from Python, as in LlamaDeploy 0.8.1."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from llamadeploy.types import ServiceOptions, SessionPolicy


class WorkflowServiceConfig(BaseSettings):
    """Read from arguments, else from ``LLAMA_DEPLOY_WF_SERVICE_*``.

    ``host`` and ``port`` are where the service's own server listens (port 0: a free one);
    ``internal_host`` and ``internal_port`` where it binds, if that differs. ``step_interval`` and
    ``raise_exceptions`` are kept for 0.8.1's callers: nothing polls, and an exception of a
    workflow is its task's result. The last six, in seconds where they are times, were added; see
    :class:`llamadeploy.types.ServiceOptions`.
    """

    model_config = SettingsConfigDict(env_prefix="LLAMA_DEPLOY_WF_SERVICE_")

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    internal_host: str | None = None
    internal_port: int | None = Field(None, ge=0, le=65535)
    service_name: str = "default_workflow_service"
    description: str = "A service that wraps a llama-index workflow."
    step_interval: float = 0.1
    max_concurrent_tasks: int = Field(8, ge=1)
    raise_exceptions: bool = False
    use_tls: bool = False
    session_policy: SessionPolicy = SessionPolicy.ENQUEUE
    timeout: float | None = Field(None, gt=0)
    wait_timeout: float | None = Field(None, gt=0)
    queue_timeout: float | None = Field(None, gt=0)
    max_retries: int = Field(3, ge=0)
    retry_on_error: bool = False

    @property
    def url(self) -> str:
        """The base URL of the service's own server."""
        return f"{'https' if self.use_tls else 'http'}://{self.host}:{self.port}"

    @property
    def options(self) -> ServiceOptions:
        """How the control plane is to treat the service's tasks."""
        return ServiceOptions(
            session_policy=self.session_policy,
            timeout=self.timeout,
            wait_timeout=self.wait_timeout,
            queue_timeout=self.queue_timeout,
            max_retries=self.max_retries,
            retry_on_error=self.retry_on_error,
        )
