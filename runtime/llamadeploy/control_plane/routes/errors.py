"""One table from our errors to HTTP replies ``{"detail": ...}``."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from llamadeploy.control_plane.validation import InvalidFieldError
from llamadeploy.exceptions import (
    ConfigurationError,
    ConflictError,
    DeploymentError,
    LlamaDeployError,
    NotFoundError,
    QueueUnavailableError,
    StoreUnavailableError,
)

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1

STATUS_CODES: dict[type[LlamaDeployError], int] = {
    NotFoundError: 404,
    ConflictError: 409,
    ConfigurationError: 400,
    DeploymentError: 400,
    StoreUnavailableError: 503,
    QueueUnavailableError: 503,
}
"""Looked up along the class hierarchy; what is not here is 500."""


def status_code(error: LlamaDeployError) -> int:
    """The HTTP status for the error."""
    return next((STATUS_CODES[c] for c in type(error).__mro__ if c in STATUS_CODES), 500)


def install_error_handlers(app: FastAPI) -> None:
    """Turn our errors into replies. Call it once per application."""
    app.add_exception_handler(InvalidFieldError, _invalid_field)
    app.add_exception_handler(LlamaDeployError, _known_error)


async def _invalid_field(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InvalidFieldError)  # noqa: S101 - narrowed by the registration
    detail = [{"type": "invalid_field", "loc": list(error.location), "msg": error.problem}]
    return JSONResponse({"detail": detail}, status_code=422)


async def _known_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LlamaDeployError)  # noqa: S101 - narrowed by the registration
    code = status_code(error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if code == 503 else None
    if code >= 500:
        request_id = request.scope.get("state", {}).get("request_id", "none")
        log.error("%s %s: %s (request %s)", request.method, request.url.path, error, request_id)
    return JSONResponse({"detail": str(error)}, status_code=code, headers=headers)
