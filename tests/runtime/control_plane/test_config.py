"""ControlPlaneConfig: 0.8.1's fields, prefix and defaults."""

from __future__ import annotations

import pytest

from llamadeploy.control_plane.config import ControlPlaneConfig


def test_defaults_are_the_originals_and_a_day_of_retention() -> None:
    config = ControlPlaneConfig()
    assert config.retention == 86400
    assert config.model_dump(exclude={"retention"}) == {
        "services_store_key": "services",
        "tasks_store_key": "tasks",
        "session_store_key": "sessions",
        "step_interval": 0.1,
        "host": "127.0.0.1",
        "port": 8000,
        "internal_host": None,
        "internal_port": None,
        "running": True,
        "cors_origins": None,
        "topic_namespace": "llama_deploy",
        "state_store_uri": None,
        "use_tls": False,
    }


def test_clients_of_0_8_1_are_told_no_field_that_they_refuse() -> None:
    assert "retention" not in ControlPlaneConfig().public()


def test_the_environment_is_read_by_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_PORT", "9000")
    monkeypatch.setenv("CONTROL_PLANE_CORS_ORIGINS", '["*"]')
    config = ControlPlaneConfig(host="example.org")
    assert config.url == "http://example.org:9000"
    assert config.cors_origins == ["*"]
    assert ControlPlaneConfig(use_tls=True).url == "https://127.0.0.1:9000"


def test_the_internal_address_is_the_one_to_bind() -> None:
    config = ControlPlaneConfig(internal_host="0.0.0.0", internal_port=1)
    assert (config.bind_host, config.bind_port) == ("0.0.0.0", 1)
    config = ControlPlaneConfig(host="h", port=2)
    assert (config.bind_host, config.bind_port) == ("h", 2)


def test_a_config_can_be_unpacked() -> None:
    config = ControlPlaneConfig(port=1234)
    assert ControlPlaneConfig(**config) == config
    assert config["port"] == 1234
    with pytest.raises(KeyError):
        config["nope"]


def test_a_pod_does_not_read_service_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_PORT", "tcp://10.0.0.1:8000")
    assert ControlPlaneConfig.without_environment(topic_namespace="x").port == 8000
