"""The Lua script, and calling it."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

import msgspec

from llamadeploy import exceptions
from llamadeploy.exceptions import (
    ConfigurationError,
    LlamaDeployError,
    StoreError,
    StoreUnavailableError,
)
from llamadeploy.redis_pipe import Library, RedisAway, RedisPipe, RedisRefused
from llamadeploy.state_stores.followers import Followers
from llamadeploy.state_stores.observation import StoreObserver, tell
from llamadeploy.state_stores.redis import replies
from llamadeploy.state_stores.redis.operations import Operation
from llamadeploy.state_stores.redis.purge import purge

T = TypeVar("T")

LIBRARY = Library(
    "store",
    "\n".join(
        item.read_text(encoding="utf-8")
        for item in sorted((files(__package__) / "lua").iterdir(), key=lambda item: item.name)
        if item.name.endswith(".lua")
    ),
)


class Answer(msgspec.Struct, array_like=True):
    """What the script returns; ``error`` is the name of one of our exceptions, its message is then
    the value. ``items`` are msgpack values one behind the other, in a list."""

    error: str | None
    value: msgspec.Raw
    touched: list[str]
    ended: replies.Ended
    observed: list[list[Any]]
    items: msgspec.Raw


_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_encode_request = msgspec.msgpack.Encoder().encode


class ScriptCaller:
    """Runs operations on the keys of one deployment.

    Args:
        mark: 16 characters that tell this process from the others.
        clock: seconds since the epoch; ``None``: the server's time.
    """

    def __init__(
        self,
        pipe: RedisPipe,
        prefix: str,
        *,
        mark: str,
        followers: Followers,
        clock: Callable[[], float] | None,
    ) -> None:
        self._pipe = pipe
        self._keys = (prefix,)
        self._mark = mark
        self._followers = followers
        self._clock = clock
        self._closed = False
        self.observer: StoreObserver | None = None

    async def run(self, operation: Operation[T], request: Any) -> T:
        """The operation's value.

        Raises:
            LlamaDeployError: the operation's own refusals; StoreUnavailableError, StoreError.
        """
        value, _ = await self.run_with_items(operation, request)
        return value

    async def run_with_items(self, operation: Operation[T], request: Any) -> tuple[T, msgspec.Raw]:
        """The operation's value, and its items in msgpack."""
        asked = time.perf_counter()
        answer = _decode_answer(await self._ask(operation, _encoded(request)))
        if answer.touched:
            self._followers.wake(answer.touched, replies.ended_records(answer.ended))
        if self.observer is not None:
            self.observer.operation(operation.shown, time.perf_counter() - asked)
            tell(self.observer, replies.observations(answer.observed))
        if answer.error is not None:
            raise _error(answer.error, msgspec.msgpack.decode(answer.value))
        return operation.decode(answer.value), answer.items

    async def purge(self) -> int:
        """Remove every key; how many tasks there were.

        Raises:
            StoreUnavailableError, StoreError: a part may be gone.
        """
        self._check_open()
        try:
            return await purge(self._pipe, self._keys[0])
        except RedisAway as error:
            raise StoreUnavailableError(f"state store: {error}") from error
        except RedisRefused as error:
            raise StoreError(f"state store: {error}") from error

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the state store is closed")

    async def aclose(self) -> None:
        """Refuse whatever comes later. Idempotent."""
        self._closed = True
        await self._pipe.aclose()

    async def _ask(self, operation: Operation[Any], request: bytes) -> bytes:
        self._check_open()
        now = "" if self._clock is None else repr(self._clock())
        try:
            answer: bytes = await self._pipe.run(
                LIBRARY, operation.access, self._keys, operation.name, request, self._mark, now
            )
        except RedisAway as error:
            raise StoreUnavailableError(f"state store: {error}") from error
        except RedisRefused as error:
            raise StoreError(f"state store: {error}") from error
        return answer


def _encoded(request: Any) -> bytes:
    try:
        return _encode_request(request)
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"a text cannot be stored because it is not valid Unicode ({error.reason} at "
            f"character {error.start})"
        ) from None


def _error(name: str, message: str) -> LlamaDeployError:
    kind: type[LlamaDeployError] = getattr(exceptions, name)
    return kind(message)
