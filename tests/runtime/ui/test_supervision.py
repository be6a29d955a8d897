"""The front end's process: kept running, told in status, gone with its deployment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def crashed_and_back(server: Any, name: str, pid: int) -> dict[str, Any]:
    """The UI's status once a process other than ``pid`` serves it."""

    async def back() -> dict[str, Any] | None:
        status = await server.ui(name)
        ready = status["state"] == "ready" and status["restarts"] > 0
        return status if ready and (await server.hello(name))["pid"] != pid else None

    return dict(await server.until(back, "the user interface is back"))


async def test_kill_9_restarts_it(server: Any) -> None:
    before = await server.deployed("one")
    assert (before["state"], before["restarts"], before["last_error"]) == ("ready", 0, None)
    pid = (await server.hello("one"))["pid"]
    members = server.group(before["pid"])
    assert pid in members
    os.kill(pid, signal.SIGKILL)
    after = await crashed_and_back(server, "one", pid)
    assert after["restarts"] == 1
    assert "the user interface ended with exit code 137" in after["last_error"]
    assert after["port"] == before["port"]
    assert not any(map(server.alive, members))


async def test_kill_9_of_the_leader_leaves_nothing(server: Any) -> None:
    before = await server.deployed("one")
    pid, members = (await server.hello("one"))["pid"], server.group(before["pid"])
    os.kill(before["pid"], signal.SIGKILL)
    after = await crashed_and_back(server, "one", pid)
    assert "was killed by signal 9" in after["last_error"]
    assert not any(map(server.alive, members))


async def test_while_it_is_away_it_is_502(server: Any, project: Path) -> None:
    status = await server.deployed("one")
    (Path((await server.hello("one"))["folder"]) / "server.mjs").write_text(
        'console.log("no more"); process.exit(3);'
    )
    os.killpg(status["pid"], signal.SIGKILL)

    async def away() -> Any:
        status = await server.ui("one")
        return status if "exit code 3" in (status["last_error"] or "") else None

    status = await server.until(away, "the user interface fails again and again")
    assert "no more" in status["last_error"]
    assert (await server.details("one"))["state"] == "degraded"
    assert (await server.get("/readyz"))[0] == 200  # tasks are not concerned
    async with server.http.get("/ui/one/hello") as reply:
        assert (reply.status, reply.headers["retry-after"]) == (502, "1")
        detail = (await reply.json())["detail"]
    assert detail.startswith("the user interface of 'one' does not answer: the user interface")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await server.http.ws_connect("/ui/one/socket")
    assert caught.value.status == 502


async def test_deleting_the_deployment_ends_it_and_its_streams(server: Any) -> None:
    await server.deployed("one")
    two = await server.deployed("two")
    members = server.group(two["pid"])
    async with server.http.get("/ui/two/events") as stream:
        await stream.content.readuntil(b"\n\n")
        async with server.http.delete("/deployments/two") as reply:
            assert reply.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await asyncio.wait_for(stream.content.read(), 5)
    assert not any(map(server.alive, members))
    assert await server.get("/ui/two/hello") == (404, {"detail": "Deployment not found"})
    assert (await server.hello("one"))["deployment"] == "one"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_it_ends_with_the_server_and_comes_back(
    serve: Callable[..., Any], number: signal.Signals
) -> None:
    async with serve() as server:
        status = await server.deployed("one", env={"GREETING": "kept"})
        members = server.group(status["pid"])
        assert len(members) >= 3  # our guard, the package manager, the front end
        socket_ = await server.http.ws_connect("/ui/one/socket")
        await server.stop(number)
        await server.until(lambda: not any(map(server.alive, members)), "its processes are gone")
        await socket_.close()
    async with serve() as server:

        async def back() -> bool:
            return bool((await server.ui("one"))["state"] == "ready")

        await server.until(back, "the user interface is back")
        assert (await server.hello("one"))["greeting"] == "kept"
        assert (await server.ui("one"))["packages"] is None  # nothing was installed again


async def test_reload_serves_the_new_one_without_a_gap(server: Any, project: Path) -> None:
    before = await server.deployed("one", env={"VERSION": "1"})
    seen: list[str] = []
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            seen.append((await server.hello("one"))["version"])

    asking = asyncio.create_task(ask())
    await server.until(lambda: seen, "the first version answers")
    after = await server.deployed("one", reload=True, env={"VERSION": "2"})
    await server.until(lambda: seen[-1] == "2", "the second version answers")
    stop.set()
    await asking
    assert sorted(seen) == seen
    assert after["packages"] == "cached"
    assert server.group(before["pid"]) == []


async def test_a_reload_that_fails_leaves_the_old_one(server: Any, project: Path) -> None:
    before = await server.deployed("one")
    (project / "frontend" / "server.mjs").write_text('throw new Error("broken on purpose");')
    status, body = await server.deploy(server.file("one"), reload=True)
    assert status == 400
    assert body["detail"].startswith("ui: the user interface ended with exit code 1")
    assert "broken on purpose" in body["detail"]
    details = await server.details("one")
    assert details["ui"]["pid"] == before["pid"]
    assert "broken on purpose" in details["last_deploy_error"]
    assert (await server.hello("one"))["pid"]


async def test_a_reload_can_add_and_remove_it(server: Any) -> None:
    without = server.file("one").partition("ui:")[0]
    assert (await server.deploy(without))[0] == 200
    assert (await server.get("/ui/one/hello"))[0] == 404
    status = await server.deployed("one", reload=True)
    assert (await server.hello("one"))["deployment"] == "one"
    assert (await server.deploy(without, reload=True))[0] == 200
    assert (await server.get("/ui/one/hello"))[0] == 404
    assert await server.ui_or_none("one") is None
    assert server.group(status["pid"]) == []


async def test_ports(server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("", 0)) as other:
        free = other.getsockname()[1]
        other.close()
        one = await server.deployed("one", port=free)
        two = await server.deployed("two", port=taken.getsockname()[1])
        three = await server.deployed("three", port=free)
        assert one["port"] == free
        assert two["port"] not in (free, taken.getsockname()[1])
        assert three["port"] not in (free, two["port"])
        for name in ("one", "two", "three"):
            assert (await server.hello(name))["deployment"] == name


async def test_wherever_it_listens(server: Any) -> None:
    hosts = {"a": "127.0.0.1", "b": "::1", "c": "0.0.0.0", "d": "::", "e": "localhost"}
    await asyncio.gather(
        *(server.deployed(name, env={"TEST_HOST": host}) for name, host in hosts.items())
    )
    for name in hosts:
        assert (await server.hello(name))["deployment"] == name


async def test_a_stubborn_one_is_killed(server: Any, project: Path) -> None:
    script = project / "frontend" / "server.mjs"
    script.write_text('process.on("SIGTERM", () => {});\n' + script.read_text())
    status = await server.deployed("one")
    members = server.group(status["pid"])
    async with server.http.delete("/deployments/one") as reply:
        assert reply.status == 200
    assert not any(map(server.alive, members))
