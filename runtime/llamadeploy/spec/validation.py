"""Validate a document against a pydantic model; every error becomes a problem with its cure."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from llamadeploy.spec.documents import Document
from llamadeploy.spec.names import IN_WORDS
from llamadeploy.spec.problems import Path, SpecProblem, suggest

M = TypeVar("M", bound=BaseModel)

SECRET_WORDS = frozenset(
    {"password", "secret", "token", "uri", "url", "value", "env", "data", "key", "kwargs"}
)
"""Words of field names whose values are never shown in a message."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def problem_error(wrong: str, right: str) -> PydanticCustomError:
    """What a validator raises: its two halves become the problem's."""
    return PydanticCustomError("spec", "{wrong}; {right}", {"wrong": wrong, "right": right})


def validate(
    model: type[M],
    document: Document,
    problems: list[SpecProblem],
    *,
    at: Path = (),
    strict: bool = False,
) -> M | None:
    """The model of the value at ``at``; None, with ``problems`` extended, when it is wrong.

    Args:
        strict: no conversion of text to numbers, as the Kubernetes API server does.
    """
    data = value_at(document.data, at)
    try:
        return model.model_validate(data, strict=strict, by_alias=True, by_name=False)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems.extend(_problem(model, document, at, detail) for detail in details)
        return None


def value_at(data: Any, path: Path) -> Any:
    """The value at ``path``; None where there is nothing."""
    for part in path:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _problem(model: type[BaseModel], document: Document, at: Path, error: ErrorDetails) -> Any:
    loc = tuple(part for part in error["loc"] if part != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    path = (*at, *loc)
    if kind == "extra_forbidden":
        known = _keys(_model_at(model, loc[:-1]))
        return document.problem(path, "unknown key", suggest(str(loc[-1]), known))
    if kind == "missing":
        field = _field_at(model, loc)
        text = (field.description if field else None) or "a value"
        return document.problem(path, "is missing", f"add it: {_first_sentence(text)}")
    if kind == "spec":
        return document.problem(path, context["wrong"], context["right"])
    shown = _show(error["input"], loc, _field_at(model, loc))
    right = _cure(kind, context, error)
    return document.problem(path, f"got {shown}", right)


_CURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "string_type": lambda ctx: "must be text; put it in quotes",
    "int_type": lambda ctx: "must be a whole number",
    "int_parsing": lambda ctx: "must be a whole number",
    "int_from_float": lambda ctx: "must be a whole number",
    "float_type": lambda ctx: "must be a number",
    "float_parsing": lambda ctx: "must be a number",
    "finite_number": lambda ctx: "must be a finite number",
    "bool_type": lambda ctx: "must be true or false",
    "bool_parsing": lambda ctx: "must be true or false",
    "list_type": lambda ctx: "must be a list",
    "dict_type": lambda ctx: "must be a mapping of keys to values",
    "model_type": lambda ctx: "must be a mapping of keys to values",
    "model_attributes_type": lambda ctx: "must be a mapping of keys to values",
    "greater_than_equal": lambda ctx: f"must be {ctx['ge']} or more",
    "greater_than": lambda ctx: f"must be more than {ctx['gt']:g}",
    "less_than_equal": lambda ctx: f"must be {ctx['le']} or less",
    "string_too_short": lambda ctx: "must not be empty",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
    "too_long": lambda ctx: f"must have at most {ctx['max_length']} entries",
    "too_short": lambda ctx: f"must have at least {ctx['min_length']} entries",
    "literal_error": lambda ctx: f"must be one of {ctx['expected']}",
    "string_pattern_mismatch": lambda ctx: IN_WORDS.get(
        ctx["pattern"], f"must match {ctx['pattern']}"
    ),
}


def _cure(kind: str, context: dict[str, Any], error: ErrorDetails) -> str:
    if kind == "literal_error" and isinstance(error["input"], str):
        words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return suggest(error["input"], words, noun="values")
    build = _CURES.get(kind)
    return build(context) if build else error["msg"][:1].lower() + error["msg"][1:]


def _show(value: Any, loc: Path, field: FieldInfo | None) -> str:
    names = {word.lower() for part in loc for word in _WORD.findall(str(part))}
    secret = field is not None and SecretStr in typing.get_args(field.annotation)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if secret or names & SECRET_WORDS:
        return "text" if isinstance(value, str) else "a number"
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + "...'"


def _first_sentence(text: str) -> str:
    first = text.split(". ")[0].split("\n")[0].rstrip(".")
    return first[:1].lower() + first[1:]


# -- walking a model by the path of an error ------------------------------------------------------


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel] | None:
    current: Any = model
    for part in loc:
        field = _field(current, part)
        current = _inner(field.annotation) if field else _item(current)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _field_at(model: type[BaseModel], loc: Path) -> FieldInfo | None:
    return _field(_model_at(model, loc[:-1]), loc[-1]) if loc else None


def _field(model: Any, part: str | int) -> FieldInfo | None:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    for name, field in model.model_fields.items():
        if part == (field.alias or name):
            return field
    return None


def _keys(model: type[BaseModel] | None) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _inner(annotation: Any) -> Any:
    """``X | None`` -> ``X``."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return next(arg for arg in typing.get_args(annotation) if arg is not type(None))
    return annotation


def _item(annotation: Any) -> Any:
    """The type of a list's items or of a mapping's values."""
    annotation = _inner(annotation)
    arguments = typing.get_args(annotation)
    if not arguments or typing.get_origin(annotation) is Literal:
        return None
    inner = _inner(arguments[-1])
    return inner
