from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from workflows.context.serializers import JsonSerializer
from workflows.events import HumanResponseEvent

from llamadeploy.client import Client, ServerError
from llamadeploy.client.model import serialize_event


def test_an_event_is_written_as_the_workflow_library_writes_it() -> None:
    event = HumanResponseEvent(response="yes", _data={"n": 1})
    assert json.loads(serialize_event(event)) == json.loads(JsonSerializer().serialize(event))


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(TypeError, match="workflow Event class, not dict"):
        serialize_event({"response": "yes"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"detail": "Deployment not found"}', "Deployment not found"),
        ('{"detail": [{"loc": ["body", "input"], "msg": "Field required"}]}', "body.input: Field"),
        ("plain", "plain"),
        ("", "404 Not Found"),
    ],
)
def test_a_server_error_speaks_with_the_servers_words(body: str, text: str) -> None:
    response = httpx.Response(404, text=body, request=httpx.Request("GET", "http://x"))
    error = ServerError(response)
    assert str(error).startswith(text)
    assert isinstance(error, httpx.HTTPStatusError)
    assert error.response is response


def test_the_token_comes_from_the_environment_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAMA_DEPLOY_TOKEN", "s3cret")
    client = Client()
    assert client.token is not None
    assert "s3cret" not in repr(client)


def test_sync_inside_a_running_loop_is_refused() -> None:
    async def inside() -> None:
        _ = Client().sync

    with pytest.raises(RuntimeError, match="running event loop"):
        asyncio.run(inside())
