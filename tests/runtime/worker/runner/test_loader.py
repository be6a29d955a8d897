"""Finding and importing a workflow, and what is said when that fails."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from llamadeploy.exceptions import ConfigurationError, WorkflowLoadError
from llamadeploy.worker.loader import code_version, load_workflow

ECHO = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Echo(Workflow):
    @step
    async def echo(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.message)

class NeedsMore(Echo):
    def __init__(self, model):
        super().__init__()

echo_workflow = Echo()
number = 3

def make():
    return Echo(timeout=7)

async def make_later():
    return Echo()

def make_nothing():
    return None

def make_error():
    raise RuntimeError("no key")
"""


@pytest.fixture(autouse=True)
def clean_imports():
    modules, path = dict(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if "/pytest-" in origin:
            del sys.modules[name]


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        file = root / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return root


@pytest.mark.parametrize(
    ("path", "folder", "source_name"),
    [
        ("src/flow:echo_workflow", ".", "src"),  # as 0.8.1 resolves it
        ("flow:echo_workflow", ".", "src"),  # as its documentation writes it
        ("flow:echo_workflow", "src", None),
        ("src/flow:echo_workflow", "src", None),
        ("src/flow:echo_workflow", ".", None),
    ],
)
def test_both_readings_of_the_path(tmp_path, path, folder, source_name) -> None:
    write(tmp_path, src__flow=ECHO)
    assert type(load_workflow(path, tmp_path / folder, source_name)).__name__ == "Echo"


def test_a_package_and_its_siblings(tmp_path) -> None:
    write(
        tmp_path,
        app__inner=ECHO,
        neighbour="NAME = 'x'",
    )
    (tmp_path / "app" / "__init__.py").write_text(
        "from .inner import Echo\nfrom neighbour import NAME\nflow = Echo()\n"
    )
    assert type(load_workflow("app:flow", tmp_path)).__name__ == "Echo"


def test_an_import_of_a_sibling(tmp_path) -> None:
    write(tmp_path, parts=ECHO, main_flow="from parts import Echo\nflow = Echo()")
    assert type(load_workflow("main_flow:flow", tmp_path)).__name__ == "Echo"


@pytest.mark.parametrize("attribute", ["echo_workflow", "Echo", "make"])
def test_an_instance_a_class_and_a_function(tmp_path, attribute) -> None:
    write(tmp_path, kinds=ECHO)
    assert type(load_workflow(f"kinds:{attribute}", tmp_path)).__name__ == "Echo"


def test_workflows_that_import_llama_index_core(tmp_path) -> None:
    legacy = ECHO.replace("from workflows import", "from llama_index.core.workflow import")
    legacy = legacy.replace("from workflows.events", "from llama_index.core.workflow")
    write(tmp_path, legacy=legacy)
    assert type(load_workflow("legacy:echo_workflow", tmp_path)).__name__ == "Echo"


def test_two_sources_may_have_modules_of_one_name(tmp_path) -> None:
    for name in ("first", "second"):
        write(tmp_path / name, same=ECHO + f"\necho_workflow.where = {name!r}")
    for name in ("first", "second", "first"):
        assert load_workflow("same:echo_workflow", tmp_path / name).where == name


def says(error: pytest.ExceptionInfo[WorkflowLoadError], *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_a_missing_module_lists_the_places_and_the_nearest_name(tmp_path) -> None:
    write(tmp_path, src__workflow=ECHO)
    with pytest.raises(WorkflowLoadError) as error:
        load_workflow("workflw:echo_workflow", tmp_path, "src")
    says(error, f"{tmp_path}/workflw.py", f"{tmp_path}/src/workflw.py", "/src/workflw/__init__.py")
    with pytest.raises(WorkflowLoadError) as error:
        load_workflow("workflw:echo_workflow", tmp_path / "src")
    says(error, "has the modules workflow", "did you mean 'workflow'?")


def test_a_missing_attribute_names_the_nearest(tmp_path) -> None:
    write(tmp_path, attributes=ECHO)
    with pytest.raises(WorkflowLoadError) as error:
        load_workflow("attributes:echo_workflo", tmp_path)
    says(error, "has no attribute 'echo_workflo'; did you mean 'echo_workflow'?", "it has: Echo, ")


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("x = 1\nimport nothing_of_that_name", ["bad.py:2", "python-dependencies"]),
        ("x = 1\n\n1 / 0", ["bad.py:3", "ZeroDivisionError: division by zero"]),
        ("def f(:\n  pass", ["bad.py:1", "SyntaxError"]),
        ("import sys\nsys.exit(3)", ["sys.exit(3)", "__main__"]),
    ],
)
def test_a_failing_import_shows_file_line_and_error(tmp_path, code, parts) -> None:
    write(tmp_path, bad=code)
    with pytest.raises(WorkflowLoadError) as error:
        load_workflow("bad:flow", tmp_path)
    says(error, "importing 'bad'", *parts)
    assert "importlib/__init__.py" not in str(error.value)


@pytest.mark.parametrize(
    ("attribute", "part"),
    [
        ("number", "is a int; it must be a workflows.Workflow"),
        ("make_nothing", "is a NoneType"),
        ("make_later", "the function is async"),
        ("make_error", "raised RuntimeError: no key"),
        ("NeedsMore", "raised TypeError"),
    ],
)
def test_what_is_not_a_workflow_is_refused(tmp_path, attribute, part) -> None:
    write(tmp_path, others=ECHO)
    with pytest.raises(WorkflowLoadError) as error:
        load_workflow(f"others:{attribute}", tmp_path)
    says(error, part)


@pytest.mark.parametrize("name", ["json", "pytest"])
def test_a_module_that_would_take_the_place_of_another_is_refused(tmp_path, name) -> None:
    (tmp_path / f"{name}.py").write_text(ECHO)
    with pytest.raises(WorkflowLoadError, match="give the file another name"):
        load_workflow(f"{name}:echo_workflow", tmp_path)
    assert sys.modules["json"].__name__ == "json"


@pytest.mark.parametrize("path", ["workflow", "a:", ":b", "/etc/x:y", "../x:y"])
def test_a_malformed_path(tmp_path, path) -> None:
    with pytest.raises(ConfigurationError, match="path"):
        load_workflow(path, tmp_path)


def test_the_code_version_follows_the_code_alone(tmp_path) -> None:
    write(tmp_path, a=ECHO, b__c="x = 1")
    before = code_version(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_bytes(b"x")
    (tmp_path / "a.py").touch()
    assert code_version(tmp_path) == before
    (tmp_path / "b" / "c.py").write_text("x = 2")
    changed = code_version(tmp_path)
    assert changed != before
    (tmp_path / "b" / "c.py").rename(tmp_path / "b" / "d.py")
    assert code_version(tmp_path) not in (before, changed)
