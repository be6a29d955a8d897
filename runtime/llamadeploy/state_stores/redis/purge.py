"""Removing every key of one namespace."""

from __future__ import annotations

import re

from llamadeploy.redis_pipe import RedisPipe

STEP = 1000
"""Keys looked at per request: it holds the server up for about a millisecond."""


async def purge(pipe: RedisPipe, prefix: str) -> int:
    """See ``StateStore.purge``.

    Args:
        pipe: to the server that has the prefix's keys; their hash tag puts them on one.
        prefix: with the namespace.

    Raises:
        RedisAway, RedisRefused: a part may be gone.
    """
    tasks = int(await pipe.ask("ZCARD", f"{prefix}tasks"))
    pattern = re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix) + "*"
    cursor = b"0"
    while True:
        cursor, keys = await pipe.ask("SCAN", cursor, "MATCH", pattern, "COUNT", STEP)
        if keys:
            await pipe.ask("UNLINK", *keys)
        if cursor == b"0":
            return tasks
