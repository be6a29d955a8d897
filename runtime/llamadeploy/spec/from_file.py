"""A deployment file's document -> DeploymentSpec."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from llamadeploy.spec.checks import (
    check_service_name,
    check_state_store_uri,
    check_workflow_path,
    require_service,
)
from llamadeploy.spec.deployment import (
    ControlPlaneSpec,
    DeploymentSpec,
    QueueSpec,
    ServiceSpec,
    SourceSpec,
    UiSpec,
)
from llamadeploy.spec.deployment_file import (
    QUEUE_SECTIONS,
    ComponentSection,
    DeploymentFile,
    ServiceSection,
    SourceSection,
)
from llamadeploy.spec.documents import Document
from llamadeploy.spec.problems import SpecProblem, suggest
from llamadeploy.spec.queue_address import fold_address
from llamadeploy.spec.validation import validate

_URL_HEAD = re.compile(r"[A-Za-z][\w+.-]*://[^/]*/?|[^/@:]+@[^/:]+:")
"""Up to the host, where an ``@`` ends the user: ``https://user@host/`` or ``git@host:``."""


def from_file(document: Document, problems: list[SpecProblem]) -> DeploymentSpec | None:
    """The deployment of one document; None, with ``problems`` extended, when it is wrong."""
    before = len(problems)
    queue = _queue(document, problems)
    parsed = validate(DeploymentFile, document, problems)
    if parsed is None or queue is None:
        return None
    for name, item in parsed.services.items():
        check_service_name(document, ("services", name), name, problems)
        key = "path" if item.path is not None else "import-path"
        value = item.path or item.import_path or ""
        check_workflow_path(document, ("services", name, key), value, problems)
    require_service(
        document, ("default-service",), parsed.default_service, parsed.services, problems
    )
    uri = parsed.control_plane.state_store_uri
    check_state_store_uri(document, ("control-plane", "state_store_uri"), uri, problems)
    if len(problems) > before:
        return None
    return DeploymentSpec(
        name=parsed.name,
        control_plane=ControlPlaneSpec(**_given(parsed.control_plane)),
        message_queue=queue,
        default_service=parsed.default_service,
        services={name: _service(name, item) for name, item in parsed.services.items()},
        ui=UiSpec(**_component(parsed.ui)) if parsed.ui else None,
    )


def _queue(document: Document, problems: list[SpecProblem]) -> QueueSpec | None:
    """Apart from the rest, because the type says which keys there are."""
    at = ("message-queue",)
    data = document.data.get("message-queue")
    if not isinstance(data, dict):
        return QueueSpec()  # absent, or the wrong type, which the file's own model reports
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in QUEUE_SECTIONS:
        wrong = "is missing" if kind is None else f"got {kind!r}"
        right = suggest(str(kind or ""), QUEUE_SECTIONS, noun="types")
        problems.append(document.problem((*at, "type"), wrong, right))
        return None
    section = validate(QUEUE_SECTIONS[kind], document, problems, at=at)
    if section is None:
        return None
    options = section.model_dump(exclude={"type"}, exclude_unset=True)
    return QueueSpec.model_validate({"type": kind, "options": fold_address(kind, options)})


def _service(name: str, section: ServiceSection) -> ServiceSpec:
    options = section.model_dump(include=set(_SERVICE_FIELDS), exclude_unset=True)
    given = {key: value for key, value in options.items() if value is not None}
    return ServiceSpec(**{**_component(section), "name": name, **given})


_SERVICE_FIELDS = (
    "description", "replicas", "max_concurrent_tasks", "session_policy", "timeout",
    "wait_timeout", "queue_timeout", "max_retries", "retry_on_error", "broadcast",
)  # fmt: skip


def _component(section: ComponentSection) -> dict[str, Any]:
    given = _given(section)
    given.pop("import_path", None)
    fields = {key: given[key] for key in _COMPONENT_FIELDS if key in given}
    if section.path is None and section.import_path is not None:
        fields["path"] = section.import_path
    return {**fields, "source": _source(section.source)}


_COMPONENT_FIELDS = (
    "name", "path", "host", "port", "env", "env_files", "python_dependencies", "ts_dependencies",
)  # fmt: skip


def _source(section: SourceSection) -> SourceSpec:
    place = section.name or section.location or ""
    if section.type == "docker":
        return SourceSpec(type="image", image=place)
    if section.type == "local":
        return SourceSpec(type="local", name=str(PurePosixPath(place)))
    head = _URL_HEAD.match(place)
    start = head.end() if head else 0
    path, _, ref = place[start:].partition("@")
    url, credentials = _split_login(place[:start] + path)
    return SourceSpec(type="git", url=url, ref=ref or None, credentials=credentials)


def _split_login(url: str) -> tuple[str, dict[str, str]]:
    """An HTTP URL without its user and password, and these as a Secret would hold them."""
    parts = urlsplit(url)
    login, separator, host = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not separator:
        return url, {}
    username, _, password = login.partition(":")
    pairs = {"username": unquote(username), "password": unquote(password)}
    found = {key: value for key, value in pairs.items() if value}
    return urlunsplit(parts._replace(netloc=host)), found


def _given(section: Any) -> dict[str, Any]:
    data: dict[str, Any] = section.model_dump(exclude_unset=True)
    return {key: value for key, value in data.items() if value is not None}
