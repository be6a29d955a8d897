"""``llamadeploy control-plane`` as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llamadeploy.control_plane import process
from llamadeploy.control_plane.process import Address, Listening, serve
from llamadeploy.settings import PodSettings
from llamadeploy.state_stores import registry

ANY = Address("127.0.0.1", 0, 0, 0)


async def test_it_serves_api_and_queue_and_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    opened: list[Any] = []

    async def open_store(uri: str, namespace: str) -> Any:
        opened.append(await registry.open_store(uri, namespace))
        return opened[0]

    monkeypatch.setattr(process, "open_store", open_store)
    stop = asyncio.Event()
    ready: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    settings = PodSettings.from_env(
        {
            "LLAMADEPLOY_DEPLOYMENT": "quickstart",
            "LLAMADEPLOY_NAMESPACE": "ns.quickstart",
            "LLAMADEPLOY_STATE_STORE_URI": f"sqlite:///{tmp_path}/state.db",
            "LLAMADEPLOY_API_TOKEN": "s3cret",
            "LLAMADEPLOY_DEFAULT_SERVICE": "echo",
        }
    )
    served = asyncio.create_task(serve(settings, ANY, stop=stop, on_ready=ready.set_result))
    listening = await asyncio.wait_for(ready, 10)
    url = f"http://127.0.0.1:{listening.port}"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer s3cret"}) as http:
        async with http.get(url + "/readyz") as response:
            assert response.status == 200
        async with http.get(url + "/deployments/quickstart") as response:
            assert await response.json() == {"name": "quickstart"}
        async with http.get(url + "/queue_config") as response:
            config = (await response.json())["SimpleMessageQueueConfig"]
        assert config["port"] == listening.queue_port
        queue = f"http://127.0.0.1:{listening.queue_port}/"
        async with http.get(queue) as response:
            assert response.status == 200
        async with http.get(queue, headers={"Authorization": "Bearer no"}) as response:
            assert response.status == 401
        # A request that is being waited for is not cut short by the drain.
        async with http.post(url + "/sessions/create") as response:
            session = await response.json()
        body = {"input": "{}", "service_id": "echo"}
        async with http.post(f"{url}/sessions/{session}/tasks", json=body) as response:
            task = await response.json()
        path = f"{url}/sessions/{session}/tasks/{task}/result?wait=1"
        async with http.get(url + "/healthz") as response:
            assert response.status == 200
        poll = asyncio.create_task(_read(http, path))
        await wait_until(lambda: len(opened[0]._followers) == 1)
        stop.set()
        assert await poll is None
    await asyncio.wait_for(served, 15)


async def _read(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as response:
        assert response.status == 200
        return await response.json()


async def test_a_wrong_setting_ends_it_with_a_clear_message() -> None:
    code, error = await _run({"LLAMADEPLOY_STATE_STORE_URI": "nonsense://x"})
    assert code == 1
    assert "Error: state_store_uri: scheme 'nonsense' is unknown" in error
    code, error = await _run({"LLAMADEPLOY_MAX_RETRIES": "many"})
    assert code == 1
    assert "LLAMADEPLOY_MAX_RETRIES" in error


async def _run(environment: dict[str, str]) -> tuple[int | None, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from llamadeploy.control_plane.process import main; sys.exit(main())",
        env={"PATH": os.environ["PATH"], "LLAMADEPLOY_API_TOKEN": "s3cret", **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await child.communicate()
    return child.returncode, error.decode()


async def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    script = (
        "import asyncio\n"
        "from llamadeploy.control_plane.process import Address, serve\n"
        "from llamadeploy.pod import serve_until_told\n"
        "from llamadeploy.settings import PodSettings\n"
        "async def run(settings, stop):\n"
        "    await serve(settings, Address('127.0.0.1', 0, 0, 0), stop=stop,\n"
        "                on_ready=lambda listening: print(listening.port, flush=True))\n"
        "asyncio.run(serve_until_told(PodSettings.from_env(), run))\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    port = int(await asyncio.wait_for(child.stdout.readline(), 20))
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/healthz") as response,
    ):
        assert response.status == 200
    child.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(child.wait(), 15) == 0
