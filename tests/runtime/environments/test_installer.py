"""The environment that pip and uv get."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.environments.installer import Installer


@pytest.mark.parametrize(
    ("index", "before", "trusted"),
    [
        ("http://index.ns.svc:8080/simple", None, "index.ns.svc:8080"),
        ("http://user:word@[fd00::1]:80/simple", "a.example", "a.example [fd00::1]:80"),
        ("https://index.ns.svc/simple", None, None),
    ],
)
def test_an_index_without_tls_is_trusted(
    tmp_path: Path, index: str, before: str | None, trusted: str | None
) -> None:
    server = {"LLAMADEPLOY_INDEX_URL": index} | ({"PIP_TRUSTED_HOST": before} if before else {})
    made = Installer("pip", ("pip",)).environ(server, tmp_path, Dependencies.read([], []))
    assert made["PIP_INDEX_URL"] == index
    assert made.get("PIP_TRUSTED_HOST") == trusted
