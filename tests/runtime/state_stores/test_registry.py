"""The registry of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import ConfigurationError, UnsupportedFeatureError
from llamadeploy.state_stores import registry


def test_every_registered_scheme_is_in_the_conformance_suite(adapters: dict[str, Any]) -> None:
    assert set(registry.ADAPTERS) == set(adapters)


async def test_opens_by_scheme(tmp_path: Path) -> None:
    for uri in ("memory://", f"sqlite:///{tmp_path}/state.db"):
        store = await registry.open_store(uri, "ns")
        await store.ping()
        await store.aclose()
    assert (tmp_path / "state.db").exists()


async def test_a_relative_file_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = await registry.open_store("sqlite:///my%20state.db", "ns")
    await store.aclose()
    assert (tmp_path / "my state.db").exists()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("carrier-pigeon://x", ["'carrier-pigeon'", "memory://, postgresql://, redis://"]),
        ("state.db", ["without a scheme", "sqlite://"]),
        ("memory://host", ["memory://host", "'memory://'"]),
        ("sqlite://", ["names no file", "sqlite:///relative.db"]),
        ("sqlite://host/x.db", ["names no file"]),
        ("sqlite:///x.db?sync=full", ["unknown option 'sync'", "synchronous"]),
        ("sqlite:///x.db?synchronous=off", ["'off'", "'normal' or 'full'"]),
        ("redis://:secret@h:x/0", ["redis://[user:password@]host"]),
        ("redis://", ["names no host"]),
        ("redis://h/first", ["'first' is no number"]),
        ("redis://h?colour=red", ["unknown option 'colour'"]),
        ("redis://h,other", ["sentinel=NAME or ?cluster=true"]),
        ("redis://h?sentinel=x&cluster=true", ["exclude each other"]),
        ("redis://h/2?cluster=true", ["only database 0"]),
        ("unix://", ["a socket has a path"]),
        ("sqlite:////no/such/folder/x.db", ["folder '/no/such/folder' does not exist"]),
    ],
)
async def test_a_wrong_uri_says_what_would_be_right(uri: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        await registry.open_store(uri, "ns")
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb+srv://u:secret@h/db",
    ],
)
async def test_a_scheme_without_adapter_is_refused_without_showing_secrets(uri: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match="not available yet") as raised:
        await registry.open_store(uri, "ns")
    assert "secret" not in str(raised.value)
