"""The Python SDK: ``Client`` for async code, ``Client().sync`` for everything else."""

from llamadeploy.client.client import Client
from llamadeploy.client.errors import ServerError

__all__ = ["Client", "ServerError"]
