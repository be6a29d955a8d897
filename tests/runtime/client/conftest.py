from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from llamadeploy import Client


@pytest.fixture(scope="session")
def deployed(live_server: Any) -> str:
    """The URL of a server with the deployment ``sdk``."""
    client = Client(api_server_url=live_server.url, timeout=60)
    file = live_server.file("sdk")
    client.sync.apiserver.deployments.create(file.read_text(), base_path=file.parent)
    return str(live_server.url)


@pytest.fixture
async def client(deployed: str) -> AsyncIterator[Client]:
    """A client of that server, and of the deployment's control plane."""
    async with Client(api_server_url=deployed) as first:
        details = (await first.apiserver.status()).details["sdk"]
        plane = details["control_plane"]["url"]
    async with Client(api_server_url=deployed, control_plane_url=plane, timeout=60) as client:
        yield client
