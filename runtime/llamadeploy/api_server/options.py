"""What the API server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from llamadeploy.settings import API_SERVER_PORT, LogFormat

DEFAULT_DATA_DIR = Path(platformdirs.user_data_dir("llamadeploy")) / "api-server"
"""Where deployments are kept unless told otherwise: a restart finds them there."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Settings of one API server.

    Attributes:
        host: address to listen on; beyond loopback a token is asked for.
        port: 0 takes a free one.
        data_dir: holds everything that is kept; one server at a time.
        file: a deployment file to bring up at the start (again, with its present content).
        base_path: the folder of the file's relative paths; ``None``: the file's own.
        rc_path: a folder of deployment files that are brought up at the start, as in 0.8.1.
        token: what clients must send; ``None``: open.
        insecure_no_token: listen beyond loopback without a token.
        drain_seconds: what running tasks get when the server ends.
        retention: seconds for which finished tasks are kept; ``None``: a day.
        metrics: serve them.
        metrics_port: a port of their own besides; ``None``: none.
    """

    host: str = "127.0.0.1"
    port: int = API_SERVER_PORT
    data_dir: Path = DEFAULT_DATA_DIR
    file: Path | None = None
    base_path: Path | None = None
    rc_path: Path | None = None
    token: str | None = field(default=None, repr=False)
    insecure_no_token: bool = False
    log_format: LogFormat = "text"
    log_level: str = "INFO"
    drain_seconds: float = 10.0
    retention: float | None = None
    metrics: bool = True
    metrics_port: int | None = None
