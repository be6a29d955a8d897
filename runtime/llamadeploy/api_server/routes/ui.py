"""``/ui/{name}/...``: a deployment's user interface."""

from __future__ import annotations

from llamadeploy.api_server.backends.base import Backend
from llamadeploy.ui.proxy import UiProxy


def ui_proxy(backend: Backend, *, token: str | None) -> UiProxy:
    """What is mounted at ``/ui``.

    Args:
        token: the server's. Where there is one, ``Authorization`` holds it, and stays here.
    """
    private = ("authorization",) if token is not None else ()
    return UiProxy(backend.user_interface, private_headers=private)
