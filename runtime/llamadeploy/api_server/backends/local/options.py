"""What the whole local backend is run with."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamadeploy.api_server.backends.local.replica import Backoff
from llamadeploy.settings import LogFormat


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """Settings of the local backend; times are seconds.

    Attributes:
        token: what the control planes and queues ask for too; ``None``: open.
        ready_seconds: how long a worker may take until it is ready, its imports included.
        drain_seconds: what running tasks get to end before a worker is killed.
        retention: how long finished tasks are kept; ``None``: ``CONTROL_PLANE_RETENTION``, a day.
        insecure_no_token: listen beyond loopback without a token.
    """

    token: str | None = field(default=None, repr=False)
    ready_seconds: float = 120.0
    drain_seconds: float = 10.0
    retention: float | None = None
    backoff: Backoff = field(default_factory=Backoff)
    insecure_no_token: bool = False
    log_format: LogFormat = "text"
    log_level: str = "INFO"
