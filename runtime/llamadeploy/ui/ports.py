"""Ports for front ends: the one asked for where it is free, else any."""

from __future__ import annotations

import contextlib
import errno
import socket

DEFAULT_PORT = 3000
"""Where 0.8.1 expects its front end."""

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_taken: set[int] = set()
"""Given to front ends of this process, which may not listen yet. Ports belong to the machine, so
there is one such set per process, whatever the number of servers in it."""


def take_port(preferred: int | None) -> int:
    """A port that is free on loopback; nobody else gets it until :func:`give_back`."""
    for candidate in (preferred, 0):
        if candidate is not None and candidate not in _taken:
            port = _probe(candidate)
            if port is not None and port not in _taken:
                _taken.add(port)
                return port
    return take_port(None)


def give_back(port: int) -> None:
    """The front end that had it ended. Idempotent."""
    _taken.discard(port)


def _probe(port: int) -> int | None:
    """The port (for 0, the one the system chose) if nobody listens on it, else ``None``."""
    with contextlib.ExitStack() as stack:
        for family, host in LOOPBACKS:
            try:
                listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
                listener.listen(1)
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # a machine without IPv6
                return None
            port = listener.getsockname()[1]
    return port
