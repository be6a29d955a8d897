"""A worker's environment: the user's, its own variables, ours, and nothing meant for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamadeploy.api_server.backends.local.environment import service_variables, worker_environ
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.settings import PodSettings
from llamadeploy.spec.deployment import ServiceSpec, SourceSpec


def service(**fields: object) -> ServiceSpec:
    source = SourceSpec(type="local", name="src")
    return ServiceSpec.model_validate(
        {"name": "echo", "source": source, "path": "src/workflow:echo", **fields}
    )


def test_what_the_user_exported_passes_and_our_own_names_do_not() -> None:
    server = {
        "PATH": "/bin", "OPENAI_API_KEY": "x", "LLAMA_DEPLOY_TOKEN": "secret",
        "LLAMADEPLOY_API_TOKEN": "stale",
    }  # fmt: skip
    environ = worker_environ(PodSettings(service="echo"), {"MINE": "1"}, server)
    assert environ["PATH"] == "/bin"
    assert environ["OPENAI_API_KEY"] == "x"
    assert environ["MINE"] == "1"
    assert environ["LLAMADEPLOY_SERVICE"] == "echo"
    assert "secret" not in environ.values()
    assert "stale" not in environ.values()


def test_relative_entries_of_pythonpath_keep_their_meaning() -> None:
    environ = worker_environ(PodSettings(), {}, {"PYTHONPATH": "lib:/abs"})
    assert environ["PYTHONPATH"] == f"{Path('lib').absolute()}:/abs"


def test_env_files_override_env_and_later_ones_earlier(tmp_path: Path) -> None:
    base, source = tmp_path / "base", tmp_path / "base" / "src"
    source.mkdir(parents=True)
    (base / "a.env").write_text("ONE=file\nTWO='quoted value'\nBARE\n")
    (source / "b.env").write_text("export TWO=later\n")
    spec = service(env={"ONE": "env", "THREE": "3"}, **{"env_files": ["a.env", "b.env"]})
    assert service_variables(spec, (base, source)) == {"ONE": "file", "TWO": "later", "THREE": "3"}


@pytest.mark.parametrize("name", ["../outside.env", "/etc/environment", "missing.env", "a\0b"])
def test_env_files_stay_inside_and_must_be_there(tmp_path: Path, name: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "outside.env").write_text("A=1")
    with pytest.raises(ConfigurationError, match=r"services\.echo\.env-files: .* cannot be read"):
        service_variables(service(env_files=[name]), (base,))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LLAMADEPLOY_QUEUE_URL": "x"}, "is set by the server"),
        ({"A": "b\0c"}, "NUL"),
        ({"A=B": "c"}, "'=' from the name"),
    ],
)
def test_variables_that_cannot_be_are_refused(
    tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        service_variables(service(env=variables), (tmp_path,))
