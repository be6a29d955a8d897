"""The OpenAPI documents, completed with what FastAPI cannot see: raw routes, errors, the token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from fastapi import FastAPI

from llamadeploy.worker.operations import CALL_PATH, EXECUTE_PATH, OPERATIONS, RESULTS_PATH

Document = dict[str, Any]

OPEN = ("/healthz", "/readyz", "/metrics", "/status/metrics")
"""They need no token."""

ERRORS = {
    400: "The request cannot be done as it stands; `detail` says what to change",
    401: "The token is missing or wrong",
    403: "A web page of another site may not call this server",
    404: "There is no such deployment, service, session, task or dead letter",
    409: "It contradicts what is there, such as a name or id that is taken",
    413: "The body is too large",
    431: "The headers are too large, or too many",
    503: "The store or queue cannot be reached, a deployment is starting, or too many wait: try"
    " again after `Retry-After` seconds",
}

DESCRIPTIONS = {
    "api-server": "Administers many deployments and runs tasks in them.",
    "control-plane": "One deployment: its sessions, tasks, services and dead letters. It also"
    " serves the API server's routes for this deployment.",
}

_TEXT = {"schema": {"type": "string"}}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_RESULT = {"schema": {"anyOf": [{"$ref": "#/components/schemas/TaskResult"}, {"type": "null"}]}}
_INVALID = {
    "description": "Fields are missing or wrong; `detail` lists them",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}
    },
}
_STREAM = {
    200: {
        "description": "Events until the task ends: JSON lines, or server-sent events where"
        " `Accept` asks for them. Spaces between lines keep the connection",
        "content": {"application/x-ndjson": _TEXT, "text/event-stream": _TEXT},
    },
    204: {"description": "An `EventSource` that connects again after the end of the stream"},
}
_LOGS = {
    200: {
        "description": "Lines as `format` asks",
        "content": {"text/plain": _TEXT, "application/x-ndjson": _TEXT},
    }
}
_RESULT_REPLY = {
    200: {"description": "The result, or null", "content": {"application/json": _RESULT}}
}
REPLIES: dict[tuple[str, str], dict[int, Any]] = {
    ("get", "/tasks/{task_id}/events"): _STREAM,
    ("get", "/result_stream"): _STREAM,
    ("get", "/logs"): _LOGS,
    ("get", "/tasks/{task_id}/results"): _RESULT_REPLY,
    ("get", "/tasks/{task_id}/result"): _RESULT_REPLY,
}
"""Replies of endpoints that build them themselves, by method and end of path."""

_REQUEST_ID = {
    "description": "The request's own, or one that was made for it",
    "schema": {"type": "string"},
}


def complete(app: FastAPI, kind: str) -> None:
    """Make the application's document whole; it is built when it is asked for.

    Args:
        kind: ``api-server`` or ``control-plane``.
    """
    build = app.openapi

    def openapi() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(build(), kind)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: Document, kind: str) -> Document:
    document["info"]["description"] = DESCRIPTIONS[kind]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = {
        "type": "object",
        "title": "Problem",
        "description": "What was wrong, in words for people.",
        "required": ["detail"],
        "properties": {"detail": {"type": "string"}},
    }
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": "The token as the password; any user name",
        },
    }
    document["security"] = [{"bearer": []}, {"basic": []}]
    document["paths"].update(_probes())
    if kind == "control-plane":
        document["paths"].update(_internal(schemas))
    else:
        document["paths"].update(_user_interface())
    for path, method, operation in operations(document):
        _complete_operation(path, method, operation)
    _use_all_schemas(document)
    return document


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Path, method and operation of everything in the document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _complete_operation(path: str, method: str, operation: Document) -> None:
    replies = operation["responses"]
    for (its_method, end), given in REPLIES.items():
        if method == its_method and path.endswith(end):
            replies.update({str(code): reply for code, reply in given.items()})
    if path in OPEN:
        operation["security"] = []
    if "requestBody" in operation and not path.startswith("/internal/"):
        replies.setdefault("422", _INVALID)
    for code in _errors(path, method, operation):
        replies.setdefault(
            str(code),
            {
                "description": ERRORS[code],
                "content": {"application/json": {"schema": _PROBLEM}},
            },
        )
    for reply in replies.values():
        reply.setdefault("headers", {})["X-Request-Id"] = _REQUEST_ID


def _errors(path: str, method: str, operation: Document) -> list[int]:
    found = [403, 431, 503]
    if path not in OPEN:
        found.append(401)
    if "{" in path or any(p["in"] == "query" for p in operation.get("parameters", ())):
        found.append(404)
    if method != "get":
        found += [400, 404, 409, 413]
    return found


def _probes() -> Document:
    ready = {"type": "object", "properties": {"status": {"type": "string"}, "reasons": {
        "type": "array", "items": {"type": "string"}}}}  # fmt: skip
    body = {"application/json": {"schema": ready}}
    return {
        "/healthz": {
            "get": {
                "tags": ["Probes"],
                "summary": "Healthz",
                "description": "The process answers. Needs no token.",
                "operationId": "healthz_healthz_get",
                "responses": {"200": {"description": "It does", "content": body}},
            }
        },
        "/readyz": {
            "get": {
                "tags": ["Probes"],
                "summary": "Readyz",
                "description": "Whether tasks can be taken. Needs no token.",
                "operationId": "readyz_readyz_get",
                "responses": {
                    "200": {"description": "They can", "content": body},
                    "503": {"description": "They cannot; `reasons` says why", "content": body},
                },
            }
        },
    }


def _user_interface() -> Document:
    where = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("deployment_name", "path")
    ]
    return {
        "/ui/{deployment_name}/{path}": {
            "get": {
                "tags": ["User interfaces"],
                "summary": "User interface",
                "description": "What the deployment's own front end answers, to any method and to"
                " WebSocket handshakes.",
                "operationId": "user_interface_get",
                "parameters": where,
                "responses": {
                    "200": {"description": "The front end's answer", "content": {"*/*": {}}},
                    "502": {
                        "description": "The front end does not answer",
                        "content": {"application/json": {"schema": _PROBLEM}},
                    },
                },
            }
        }
    }


def _internal(schemas: Document) -> Document:
    """The workers' routes; their bodies are msgspec structs."""
    requests = [operation.request for operation in OPERATIONS.values()]
    from llamadeploy.worker.operations import CallReply, CallRequest

    _, components = msgspec.json.schema_components(
        [*requests, CallRequest, CallReply], ref_template="#/components/schemas/{name}"
    )
    schemas.update(components)
    operation = {
        "type": "object",
        "required": ["op", "request"],
        "properties": {
            "op": {"enum": list(OPERATIONS)},
            "request": {
                "anyOf": [
                    {"$ref": f"#/components/schemas/{name}"}
                    for name in sorted({request.__name__ for request in requests})
                ]
            },
        },
    }
    answers = {"type": "array", "items": {"type": "object"}}
    call = {name: {"$ref": f"#/components/schemas/{name}"} for name in ("CallRequest", "CallReply")}
    return {
        EXECUTE_PATH: {
            "post": _internal_operation(
                "Execute",
                "Operations of the state store in one batch: a worker's half. The answers come in"
                " the same order, each `{ok}` or `{error: {type, message}}`.",
                {"type": "array", "items": operation},
                answers,
            )
        },
        CALL_PATH: {
            "post": _internal_operation(
                "Call",
                "A running task calls another service; the reply has the new task's id.",
                call["CallRequest"],
                call["CallReply"],
            )
        },
        RESULTS_PATH + "/{task_id}": {
            "get": {
                **_internal_operation(
                    "Result", "The result of a called task, or null after `wait` seconds.", None,
                    _RESULT["schema"],
                ),
                "parameters": [
                    {"name": "task_id", "in": "path", "required": True, **_TEXT},
                    {"name": "wait", "in": "query", "required": False,
                     "schema": {"type": "number", "minimum": 0, "default": 0}},
                ],
            }
        },
    }  # fmt: skip


def _internal_operation(
    summary: str, description: str, body: Document | None, reply: Document
) -> Document:
    operation: Document = {
        "tags": ["Internal"],
        "summary": summary,
        "description": description,
        "operationId": f"internal_{summary.lower()}",
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": reply}}}
        },
    }
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    else:
        operation["responses"]["400"] = {
            "description": ERRORS[400],
            "content": {"application/json": {"schema": _PROBLEM}},
        }
    return operation


def _use_all_schemas(document: Document) -> None:
    """Endpoints that build their replies name models which FastAPI then does not know of."""
    from llamadeploy.types import TaskDefinition, TaskResult

    schemas = document["components"]["schemas"]
    for model in (TaskDefinition, TaskResult):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas.setdefault(model.__name__, schema)
