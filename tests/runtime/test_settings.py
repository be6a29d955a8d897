from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.settings import ApiserverSettings, PodSettings, load_settings, variable
from llamadeploy.types import SessionPolicy

OUR_NAMES = """
CORS_ORIGINS DRAIN_SECONDS PARENT_FD QUEUE_ACCESS_KEY_ID QUEUE_PASSWORD QUEUE_SECRET_ACCESS_KEY
RETENTION_SECONDS STATE_STORE_PASSWORD WORKER_ID
"""
API_NAMES = """
    DEPLOYMENT NAMESPACE SERVICE REPLICA QUEUE_TYPE QUEUE_URL QUEUE_OPTIONS STATE_STORE_URI
    CONTROL_PLANE_URL DEFAULT_SERVICE WORKFLOW_PATH SOURCE_DIR SIGNING_KEYS API_TOKEN
    MAX_CONCURRENT_TASKS SESSION_POLICY TASK_TIMEOUT_SECONDS WAIT_TIMEOUT_SECONDS
    QUEUE_TIMEOUT_SECONDS MAX_RETRIES RETRY_ON_ERROR BROADCAST SOURCE PYTHON_DEPENDENCIES
    INDEX_URL LOG_FORMAT LOG_LEVEL
"""

words = st.text(alphabet=string.ascii_letters + string.digits + "-_/:.=@", min_size=1)
seconds = st.none() | st.floats(min_value=1e-9, max_value=1e9)
json_objects = st.dictionaries(words, st.none() | st.booleans() | st.integers() | words)
settings_objects = st.builds(
    PodSettings,
    deployment=words,
    namespace=words,
    service=st.none() | words,
    queue_type=words,
    queue_url=st.none() | words.map(SecretStr),
    queue_options=json_objects,
    state_store_uri=st.none() | words.map(SecretStr),
    source_dir=st.none() | words.map(Path),
    signing_keys=st.none() | words.map(SecretStr),
    api_token=st.none() | words.map(SecretStr),
    max_concurrent_tasks=st.integers(min_value=1),
    session_policy=st.sampled_from(SessionPolicy),
    task_timeout_seconds=seconds,
    wait_timeout_seconds=seconds,
    max_retries=st.integers(min_value=0),
    retry_on_error=st.booleans(),
    broadcast=st.booleans(),
    source=st.none() | json_objects,
    python_dependencies=st.lists(words),
    log_format=st.sampled_from(["text", "json"]),
    parent_fd=st.none() | st.integers(min_value=0),
)


@given(settings_objects)
def test_what_is_written_is_read_back(settings: PodSettings) -> None:
    assert PodSettings.from_env(settings.to_environ()) == settings


def test_every_shared_name_is_a_field_and_the_others_are_our_own() -> None:
    names = {variable(name).removeprefix("LLAMADEPLOY_") for name in PodSettings.model_fields}
    assert names == {*API_NAMES.split(), *OUR_NAMES.split()}


def test_nothing_but_our_names_is_read() -> None:
    environ = {"REDIS_URL": "redis://elsewhere", "QUEUE_URL": "x", "LLAMA_DEPLOY_SERVICE": "y"}
    assert PodSettings.from_env(environ) == PodSettings()
    assert PodSettings.from_env({"LLAMADEPLOY_OF_A_LATER_RELEASE": "1"}) == PodSettings()


def test_defaults() -> None:
    settings = PodSettings.from_env({"LLAMADEPLOY_SERVICE": "  ", "LLAMADEPLOY_MAX_RETRIES": ""})
    assert (settings.service, settings.max_retries, settings.max_concurrent_tasks) == (None, 3, 8)
    assert settings.session_policy is SessionPolicy.ENQUEUE
    assert settings.task_timeout_seconds is None and settings.queue_type == "simple"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("MAX_CONCURRENT_TASKS", "0", "a whole number of 1 or more"),
        ("MAX_CONCURRENT_TASKS", "tcp://10.0.0.1:80", "a whole number of 1 or more"),
        ("TASK_TIMEOUT_SECONDS", "-1", "a number of seconds above 0"),
        ("TASK_TIMEOUT_SECONDS", "nan", "a number of seconds above 0"),
        ("TASK_TIMEOUT_SECONDS", "inf", "a number of seconds above 0"),
        ("SESSION_POLICY", "queue", "enqueue, parallel or reject"),
        ("BROADCAST", "perhaps", "true or false"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO"),
    ],
)
def test_errors_name_variable_wrong_and_right(name: str, value: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PodSettings.from_env({f"LLAMADEPLOY_{name}": value})
    message = str(caught.value)
    assert f"LLAMADEPLOY_{name} is {value!r}: it must be {right}" in message


def test_all_errors_are_reported_at_once_and_json_is_not_shown() -> None:
    environ = {
        "LLAMADEPLOY_QUEUE_OPTIONS": '{"password": "hunter2"',
        "LLAMADEPLOY_SOURCE": '["hunter2"]',
        "LLAMADEPLOY_MAX_RETRIES": "many",
    }
    with pytest.raises(ConfigurationError) as caught:
        PodSettings.from_env(environ)
    message = str(caught.value)
    assert "hunter2" not in message
    assert all(name in message for name in environ)


def test_secrets_are_not_shown() -> None:
    settings = PodSettings.from_env(
        {
            "LLAMADEPLOY_API_TOKEN": "hunter2",
            "LLAMADEPLOY_SIGNING_KEYS": "hunter2",
            "LLAMADEPLOY_QUEUE_URL": "redis://:hunter2@redis",
            "LLAMADEPLOY_STATE_STORE_URI": "redis://:hunter2@redis",
            "LLAMADEPLOY_INDEX_URL": "https://hunter2@pypi",
        }
    )
    assert "hunter2" not in repr(settings) + settings.model_dump_json()
    assert settings.to_environ()["LLAMADEPLOY_API_TOKEN"] == "hunter2"


def test_require_lists_what_is_missing() -> None:
    settings = PodSettings(service="echo")
    settings.require("service", "deployment")
    with pytest.raises(ConfigurationError, match=r"LLAMADEPLOY_WORKFLOW_PATH is not set.*module"):
        settings.require("service", "workflow_path", "source_dir")


def test_log_level_in_any_case() -> None:
    assert PodSettings.from_env({"LLAMADEPLOY_LOG_LEVEL": "debug"}).log_level == "DEBUG"


def test_apiserver_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ApiserverSettings().url == "http://127.0.0.1:4501"
    monkeypatch.setenv("LLAMA_DEPLOY_APISERVER_PORT", "80")
    monkeypatch.setenv("LLAMA_DEPLOY_APISERVER_USE_TLS", "true")
    assert ApiserverSettings().url == "https://127.0.0.1"


def test_load_settings_names_variable_or_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"^port: "):
        load_settings(ApiserverSettings, port="hunter2")
    monkeypatch.setenv("LLAMA_DEPLOY_APISERVER_PORT", "tcp://hunter2")
    with pytest.raises(ConfigurationError, match=r"^LLAMA_DEPLOY_APISERVER_PORT: ") as caught:
        load_settings(ApiserverSettings)
    assert "hunter2" not in str(caught.value)
