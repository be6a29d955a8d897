"""Errors of the SDK, made from HTTP replies at this one border."""

from __future__ import annotations

import json

import httpx

from llamadeploy.exceptions import LlamaDeployError


class ServerError(LlamaDeployError, httpx.HTTPStatusError):
    """The server refused a request; ``str()`` is the server's own explanation.

    It is an ``httpx.HTTPStatusError`` too, which code written for LlamaDeploy 0.8.1 catches.

    Attributes:
        status_code: the HTTP status, 400 to 599.
        detail: the explanation.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.status_code = response.status_code
        self.detail = _detail(response)
        httpx.HTTPStatusError.__init__(
            self, self.detail, request=response.request, response=response
        )


def raise_for_status(response: httpx.Response) -> None:
    """Raises ServerError for a reply of 400 and above."""
    if response.status_code >= 400:
        raise ServerError(response)


def _detail(response: httpx.Response) -> str:
    fallback = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        detail = json.loads(response.text)["detail"]
    except (ValueError, KeyError, TypeError):
        return response.text.strip() or fallback
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list):
        return "; ".join(_field_error(item) for item in detail)
    return json.dumps(detail)


def _field_error(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    where = ".".join(str(part) for part in item.get("loc", ()))
    return f"{where}: {item.get('msg', 'invalid')}" if where else str(item.get("msg", item))
