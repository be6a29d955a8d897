"""Checks that both forms of file share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from llamadeploy.spec.documents import Document
from llamadeploy.spec.names import IN_WORDS, RESERVED_SERVICE_NAMES, SERVICE_NAME
from llamadeploy.spec.problems import Path, SpecProblem, suggest

STATE_STORE_SCHEMES = (
    "memory", "sqlite", "redis", "rediss", "unix", "postgresql", "postgres", "mongodb",
    "mongodb+srv",
)  # fmt: skip


def check_service_name(
    document: Document, path: Path, name: str, problems: list[SpecProblem]
) -> None:
    """A service's name goes into topics and URLs."""
    if name in RESERVED_SERVICE_NAMES:
        wrong = f"the name '{name}' is reserved"
        problems.append(document.problem(path, wrong, "give the service another name"))
    elif not re.fullmatch(SERVICE_NAME, name):
        problems.append(document.problem(path, f"bad name {name!r}", IN_WORDS[SERVICE_NAME]))


def check_workflow_path(
    document: Document, path: Path, value: str, problems: list[SpecProblem]
) -> None:
    """A service's ``path`` stays inside of its source and names a module, not a file."""
    place, _, attr = value.partition(":")
    if place.endswith(".py"):
        right = f"leave out the ending: '{place.removesuffix('.py')}:{attr}'"
        problems.append(document.problem(path, f"{value!r} names a file", right))
    elif PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        right = "write it relative to the source"
        problems.append(document.problem(path, f"{value!r} leads outside of the source", right))


def require_service(
    document: Document,
    path: Path,
    name: str | None,
    services: Iterable[str],
    problems: list[SpecProblem],
) -> None:
    """The default service is one of the services."""
    names = list(services)
    if name is not None and name not in names:
        right = suggest(name, names, noun="services")
        problems.append(document.problem(path, f"there is no service '{name}'", right))


def check_state_store_uri(
    document: Document, path: Path, uri: str | None, problems: list[SpecProblem]
) -> None:
    """The scheme is a store's; the rest of the URI, which may hold a password, is not shown."""
    if uri is None:
        return
    scheme, separator, _ = uri.partition("://")
    if not separator:
        right = "write scheme://..., such as sqlite:///state.db"
        problems.append(document.problem(path, "is not a URI", right))
    elif scheme not in STATE_STORE_SCHEMES:
        right = suggest(scheme, STATE_STORE_SCHEMES, noun="schemes")
        problems.append(document.problem(path, f"unknown scheme '{scheme}'", right))
