"""WebSockets through ``/ui/<deployment>/``."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOSE = aiohttp.WSMsgType.CLOSE


async def test_echo_in_both_directions(fronts: Any) -> None:
    async with (
        fronts.http.ws_connect("/ui/one/socket") as one,
        fronts.http.ws_connect("/ui/two/socket") as two,
    ):
        for text in ("hello", "", "€" * 1000, "x" * 70_000):
            await one.send_str(text)
            await two.send_str("two: " + text)
            assert await one.receive_str(timeout=5) == text
            assert await two.receive_str(timeout=5) == "two: " + text


async def test_binary_up_to_a_megabyte(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket", max_msg_size=0) as socket:
        for data in (b"\x00\xff", bytes(range(256)) * 4096):
            await socket.send_bytes(data)
            assert await socket.receive_bytes(timeout=10) == data


async def test_several_messages_under_way(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket") as socket:
        for number in range(200):
            await socket.send_str(str(number))
        got = [await socket.receive_str(timeout=5) for _ in range(200)]
    assert got == [str(number) for number in range(200)]


async def test_the_subprotocol_is_the_front_ends_choice(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket", protocols=["other", "vite-hmr"]) as socket:
        assert socket.protocol == "vite-hmr"
    async with fronts.http.ws_connect("/ui/one/socket", protocols=["unknown"]) as socket:
        assert socket.protocol is None


async def test_the_handshakes_headers_pass(fronts: Any) -> None:
    headers = {"Origin": "http://ui.example.com", "Cookie": "a=1"}
    async with fronts.http.ws_connect("/ui/one/socket/x%2Fy?token=t", headers=headers) as socket:
        await socket.send_str("headers")
        got = json.loads(await socket.receive_str(timeout=5))
    assert got["url"] == "/ui/one/socket/x%2Fy?token=t"
    assert (got["origin"], got["cookie"]) == ("http://ui.example.com", "a=1")
    assert got["host"] == got["x-forwarded-host"] == fronts.url.removeprefix("http://")
    assert got["x-forwarded-proto"] == "http"


async def test_pings_of_the_front_end_are_answered(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket") as socket:
        await socket.send_str("ping")
        assert await socket.receive_str(timeout=5) == "after the ping"


async def test_the_front_end_closes_with_a_code(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket", autoclose=False) as socket:
        await socket.send_str("close 4001 because of this")
        message = await socket.receive(timeout=5)
    assert (message.type, message.data, message.extra) == (CLOSE, 4001, "because of this")


async def test_the_client_closes_with_a_code(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket") as socket:
        await socket.close(code=4002)

    async def arrived() -> bool:
        async with fronts.http.ws_connect("/ui/one/socket") as other:
            await other.send_str("last close")
            return await other.receive_str(timeout=5) == "4002"

    await fronts.until(arrived, "the front end got the client's code")


async def test_a_connection_that_breaks_is_told(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket", autoclose=False) as socket:
        await socket.send_str("reset")
        message = await socket.receive(timeout=5)
    assert (message.type, message.data) == (CLOSE, 1014)  # bad gateway


@pytest.mark.parametrize(
    ("path", "status"), [("/ui/one/other", 403), ("/ui/nobody/socket", 404), ("/ui/", 404)]
)
async def test_a_handshake_that_fails(fronts: Any, path: str, status: int) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await fronts.http.ws_connect(path)
    assert caught.value.status == status


async def test_a_message_that_is_too_large_ends_the_connection(fronts: Any) -> None:
    async with fronts.http.ws_connect("/ui/one/socket", autoclose=False, max_msg_size=0) as socket:
        await socket.send_str("send 17 MiB")
        message = await socket.receive(timeout=10)
    assert (message.type, message.data) == (CLOSE, 1009)
