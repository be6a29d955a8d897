"""The connection to the API server: what is found out before the first request."""

from __future__ import annotations

import pytest

from llamadeploy_operator.cluster.api import _proxy_for


@pytest.mark.parametrize(
    ("url", "no_proxy", "wanted"),
    [
        ("https://api.example:6443", "", "http://proxy:3128"),
        ("https://10.0.0.1:443", "", "http://proxy:3128"),
        ("https://api.example:6443", "other.example,api.example", None),
        ("https://api.inner.example:6443", ".inner.example", None),
        ("https://api.example:6443", "*", None),
        ("http://api.example:8080", "", None),
    ],
)
def test_the_proxy_is_what_the_environment_says(
    url: str, no_proxy: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert _proxy_for(url) == wanted


def test_without_a_proxy_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert _proxy_for("https://api.example:6443") is None
