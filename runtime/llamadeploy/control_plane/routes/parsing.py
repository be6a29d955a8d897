"""Request bodies of the hot routes: parsed once, with FastAPI's 422 for what is wrong."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_body(request: Request, model: type[ModelT]) -> ModelT:
    """The body as ``model``.

    Raises:
        RequestValidationError: which fields are wrong, as FastAPI reports it.
    """
    body = await request.body()
    try:
        return model.model_validate_json(body or b"null")
    except ValidationError as error:
        raise RequestValidationError(
            [_shown(dict(item)) for item in error.errors(include_url=False)]
        ) from None


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    item["loc"] = ("body", *item["loc"])
    if isinstance(item.get("input"), bytes):  # a body that is no JSON, and perhaps no text
        item["input"] = item["input"].decode("utf-8", "replace")
    return item


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` that documents such a body."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
