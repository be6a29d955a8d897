"""The simple queue's HTTP API: the routes of LlamaDeploy 0.8.1, and leases for our own workers.

======================================  =========================================================
``GET /``                               name and description
``POST /topics/{t}``                    make the topic; null
``DELETE /topics/{t}``                  forget it with its messages; null
``POST /messages/{t}``                  publish one message; 404 where there is no such topic
``GET /messages/{t}``                   take the oldest, unleased, or null; 404 as above
``POST /messages``                      publish a list of ``{topic, message}``, making topics
``POST /messages/{t}/lease``            see ``wire.LeaseRequest``
``POST /messages/{t}/ack | nack``       see ``wire.SettleRequest``
``GET /messages/{t}/depth``             ready plus leased
``DELETE /namespaces/{n}``              forget its topics with their messages; how many they were
``POST /heartbeat``                     consumers that are alive; the reply names unknown ones
``DELETE /consumers/{id}``              hand back what the consumer holds; null
======================================  =========================================================
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.http.exposure import MANUAL_CURE, check_exposure, insecure_by_environment
from llamadeploy.http.hot_routes import HotRoutes, hot
from llamadeploy.http.protection import ProtectionMiddleware
from llamadeploy.http.serving import HttpServer, TokenMiddleware
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple import wire
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.topic import Lease

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 2**20
"""A larger request body is refused with 413."""

_T = TypeVar("_T")
Handler = Callable[[Request], Awaitable[Any]]
_encode = msgspec.json.Encoder().encode


class SimpleMessageQueueServer:
    """Serves a broker over HTTP.

    Args:
        config: address for :meth:`start` and :meth:`launch_server`; port 0 takes a free one.
        broker: the broker to serve, where the process has one already.
        token: asked for as a bearer token, or as the password of basic authentication.
        insecure_no_token: let :meth:`launch_server` listen beyond loopback although there is no
            token; by default as ``LLAMA_DEPLOY_INSECURE_NO_TOKEN`` says.
    """

    def __init__(
        self,
        config: SimpleMessageQueueConfig | None = None,
        broker: Broker | None = None,
        token: str | None = None,
        insecure_no_token: bool | None = None,
    ) -> None:
        self._token = token
        self._insecure = insecure_no_token
        self._config = config or SimpleMessageQueueConfig()
        self.broker = broker or Broker()
        self.app = _application(_Handlers(self.broker), token)
        self._http = HttpServer(
            self.app,
            self._config.host,
            self._config.port,
            setting="SIMPLE_MESSAGE_QUEUE_PORT or the message queue's port",
        )

    @property
    def port(self) -> int:
        """The bound port; the configured one before :meth:`start`."""
        return self._http.port

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return self._http.url

    async def start(self) -> None:
        """Bind and serve; returns when connections are accepted.

        Raises:
            ConfigurationError: the port is in use.
        """
        await self._http.start()
        log.info("message queue listens at %s", self.url)

    async def stop(self, grace: float = 1.0) -> None:
        """End waiting consumers with empty replies, then the server. Idempotent."""
        self.broker.close()
        await self._http.stop(grace)

    async def launch_server(self) -> None:
        """Serve until cancelled.

        Raises:
            ConfigurationError: the port is in use, or others would be let in without a token.
        """
        check_exposure(
            self._config.host,
            self._token,
            insecure_by_environment() if self._insecure is None else self._insecure,
            what="SimpleMessageQueueConfig.host (SIMPLE_MESSAGE_QUEUE_HOST)",
            cure=MANUAL_CURE,
        )
        await self.start()
        try:
            await self._http.wait()
        finally:
            await self.stop()


def _application(handlers: _Handlers, token: str | None) -> FastAPI:
    one = "/messages/{topic}"
    routes: list[BaseRoute] = [
        Route(one + "/lease", hot(_json(handlers.lease)), methods=["POST"]),
        Route(one + "/ack", hot(_json(handlers.ack)), methods=["POST"]),
        Route("/messages", hot(_json(handlers.publish_many)), methods=["POST"]),
        Route(one, _json(handlers.publish), methods=["POST"]),
        Route(one, _json(handlers.pop), methods=["GET"]),
        Route(one + "/nack", _json(handlers.nack), methods=["POST"]),
        Route(one + "/depth", _json(handlers.depth), methods=["GET"]),
        Route("/heartbeat", _json(handlers.heartbeat), methods=["POST"]),
        Route("/consumers/{consumer}", _json(handlers.close_consumer), methods=["DELETE"]),
        Route("/topics/{topic}", _json(handlers.create_topic), methods=["POST"]),
        Route("/topics/{topic}", _json(handlers.delete_topic), methods=["DELETE"]),
        Route("/namespaces/{namespace}", _json(handlers.purge), methods=["DELETE"]),
        Route("/", _json(handlers.home), methods=["GET"]),
    ]
    app = FastAPI(title="LlamaDeploy simple message queue", routes=routes)
    app.add_middleware(HotRoutes, routes=routes)
    if token is not None:
        app.add_middleware(TokenMiddleware, token=token)
    # A GET takes a message away.
    app.add_middleware(ProtectionMiddleware, token=token is not None, reading_changes=True)
    return app


class _Handlers:
    """One method per route; what it returns is sent as JSON (bytes as they are)."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def home(self, request: Request) -> Any:
        return {"service_name": "message_queue", "description": "Message queue of LlamaDeploy"}

    async def create_topic(self, request: Request) -> None:
        self._broker.create_topic(request.path_params["topic"])

    async def delete_topic(self, request: Request) -> None:
        self._broker.delete_topic(request.path_params["topic"])

    async def purge(self, request: Request) -> int:
        return self._broker.purge(request.path_params["namespace"])

    async def publish(self, request: Request) -> None:
        topic = self._existing_topic(request)
        self._accept(topic, await _body(request))

    async def pop(self, request: Request) -> bytes | None:
        return self._broker.pop(self._existing_topic(request))

    async def publish_many(self, request: Request) -> list[wire.Refusal | None]:
        items = _decode(await _body(request), _PUBLICATIONS)
        return [self._outcome(item) for item in items]

    async def lease(self, request: Request) -> wire.LeaseReply:
        asked = _decode(await _body(request), _LEASE)
        waiting = self._broker.lease(
            request.path_params["topic"],
            asked.consumer,
            limit=asked.max,
            wait=asked.wait,
            ephemeral=asked.ephemeral,
            received=asked.received,
        )
        leases = await _until_disconnect(request, waiting) if asked.wait else await waiting
        return wire.LeaseReply([wire.Delivered(x.tag, msgspec.Raw(x.body)) for x in leases])

    async def ack(self, request: Request) -> wire.SettleReply:
        asked = _decode(await _body(request), _SETTLE)
        return wire.SettleReply(self._broker.ack(asked.consumer, asked.tags))

    async def nack(self, request: Request) -> wire.SettleReply:
        asked = _decode(await _body(request), _SETTLE)
        return wire.SettleReply(self._broker.nack(asked.consumer, asked.tags))

    async def depth(self, request: Request) -> wire.DepthReply:
        topic = request.path_params["topic"]
        return wire.DepthReply(self._broker.depth(topic), self._broker.ready(topic))

    async def heartbeat(self, request: Request) -> wire.HeartbeatReply:
        asked = _decode(await _body(request), _HEARTBEAT)
        return wire.HeartbeatReply([x for x in asked.consumers if not self._broker.heartbeat(x)])

    async def close_consumer(self, request: Request) -> None:
        self._broker.close_consumer(request.path_params["consumer"])

    def _existing_topic(self, request: Request) -> str:
        topic: str = request.path_params["topic"]
        if not self._broker.has_topic(topic):
            raise _Refused(404, f"topic {topic} not found")
        return topic

    def _accept(self, topic: str, body: bytes | msgspec.Raw) -> None:
        try:
            message = wire.decode_message(body)
            # Written anew: strict JSON (no NaN), with the id where the sender gave none.
            text = message.model_dump_json().encode()
        except ValueError as error:
            raise _Refused(422, str(error)) from None
        self._broker.publish(topic, message.id_, text)

    def _outcome(self, item: wire.Publication) -> wire.Refusal | None:
        try:
            self._accept(item.topic, item.message)
        except QueueUnavailableError as error:
            return wire.Refusal(503, str(error))
        except _Refused as error:
            return wire.Refusal(error.status, error.detail)
        return None


_PUBLICATIONS = msgspec.json.Decoder(list[wire.Publication])
_LEASE = msgspec.json.Decoder(wire.LeaseRequest)
_SETTLE = msgspec.json.Decoder(wire.SettleRequest)
_HEARTBEAT = msgspec.json.Decoder(wire.HeartbeatRequest)


class _Refused(Exception):
    """A reply with an error status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def _json(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    @wraps(handler)
    async def endpoint(request: Request) -> Response:
        headers = None
        try:
            reply = await handler(request)
            status = 200
        except _Refused as error:
            status, reply = error.status, {"detail": error.detail}
        except QueueUnavailableError as error:
            status, reply, headers = 503, {"detail": str(error)}, {"Retry-After": "1"}
        except ClientDisconnect:
            status, reply = 499, None  # nobody reads it
        content = reply if isinstance(reply, bytes) else _encode(reply)
        return Response(content, status, headers, "application/json")

    return endpoint


def _decode(body: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Refused(422, f"body: {error}") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _Refused(413, f"body: larger than {MAX_BODY_BYTES} bytes; send less at once")
    return bytes(body)


async def _until_disconnect(request: Request, waiting: Awaitable[list[Lease]]) -> list[Lease]:
    """``waiting``'s result; cancelled when the client goes, so that nothing is leased to a void."""
    task = asyncio.ensure_future(waiting)
    # One step: whatever is ready at once needs no watch on the connection.
    await asyncio.sleep(0)
    if task.done():
        return task.result()
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
