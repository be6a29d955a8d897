"""Imports the workflow that a service's ``path`` names, and identifies its code."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llamadeploy.exceptions import WorkflowLoadError
from llamadeploy.spec.import_targets import ImportTarget, candidate_imports

if TYPE_CHECKING:
    from workflows import Workflow

_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})
_WHOLE_FILES_UP_TO = 16 * 1024 * 1024  # bytes; of larger ones (data, models) the size counts
_TRACEBACK_LINES = 12


def load_workflow(path: str, source_dir: Path | str, source_name: str | None = None) -> Workflow:
    """Import a workflow.

    Both readings of ``path`` are tried: relative to the folder that holds the source, as 0.8.1
    resolves it, then relative to the source itself, as its documentation writes it. Modules next
    to the workflow's can be imported by it, as can packages of the source.

    Args:
        path: ``dir/module:attribute``. The attribute is a ``Workflow``, a subclass of it, or a
            function without required arguments that returns one.
        source_dir: the folder that holds the source; or the source itself, with no ``source_name``.
        source_name: the source's folder below ``source_dir``.

    Raises:
        ConfigurationError: ``path`` is malformed.
        WorkflowLoadError: not found, the import failed, or it is not a workflow. The message says
            where was looked, which attributes there are, or which line of which file failed.
    """
    root = Path(source_dir).resolve()
    target, base = _find(path, root, source_name)
    module = _import(target, base)
    return _workflow(_attribute(module, target), path)


def code_version(source_dir: Path | str) -> str:
    """Identifies the code below ``source_dir``: 16 hex digits over its files' names and contents.

    Hidden files, caches and installed packages do not count; neither does when a file was written.
    """
    root = Path(source_dir)
    digest = hashlib.sha256()
    for file in sorted(_files(root), key=lambda file: file.relative_to(root).as_posix()):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(_content(file) + b"\0")
    return digest.hexdigest()[:16]


def _find(path: str, root: Path, source_name: str | None) -> tuple[ImportTarget, Path]:
    places = [(target, root) for target in candidate_imports(path, source_name)]
    if source_name is None and PurePosixPath(path.partition(":")[0]).parts[:1] == (root.name,):
        # The source's own folder was given: the reading of 0.8.1 begins one folder above.
        places += [(target, root.parent) for target in candidate_imports(path, None)]
    for target, base in places:
        if any((base / file).is_file() for file in target.files):
            return target, base
    looked = "".join(f"\n  {base / file}" for target, base in places for file in target.files)
    raise WorkflowLoadError(
        f"path {path!r}: there is no such module; looked for{looked}\n"
        "write 'dir/module:attribute', relative to the source or to the folder that holds it"
        f"{_nearby(places)}"
    )


def _nearby(places: list[tuple[ImportTarget, Path]]) -> str:
    for target, base in places:
        folder = base / target.sys_path_entry
        if not folder.is_dir():
            continue
        modules = sorted(
            entry.stem
            for entry in folder.iterdir()
            if entry.suffix == ".py" or (entry / "__init__.py").is_file()
        )
        if modules:
            near = difflib.get_close_matches(target.module, modules, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"\n{folder} has the modules {', '.join(modules[:20])}{hint}"
    return ""


def _import(target: ImportTarget, base: Path) -> ModuleType:
    entry = str((base / target.sys_path_entry).resolve())
    _forget_other(target.module, entry)
    # First, so that the workflow's module wins over an installed one of the same name, as its
    # neighbours do when it imports them. It stays: modules are also imported while a step runs.
    if entry in sys.path:
        sys.path.remove(entry)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(target.module)
    except Exception as error:
        raise WorkflowLoadError(_import_problem(target, entry, error)) from error
    except SystemExit as error:
        raise WorkflowLoadError(
            f"importing {target.module!r} from {entry} ended the process with sys.exit("
            f"{error.code!r}); guard it with if __name__ == '__main__'"
        ) from error


def _forget_other(module: str, entry: str) -> None:
    """A module of that name that was imported from elsewhere is not the one that is asked for."""
    top = module.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is None:
        return
    origin = getattr(loaded, "__file__", None)
    if origin is not None and Path(origin).resolve().is_relative_to(entry):
        return
    if top in sys.stdlib_module_names or origin is None or "site-packages" in Path(origin).parts:
        raise WorkflowLoadError(
            f"the module {top!r} in {entry} has the name of a module that the worker uses itself "
            f"({origin or 'built in'}); give the file another name"
        )
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]


def _import_problem(target: ImportTarget, entry: str, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    own = [frame for frame in own if frame.filename not in (__file__, importlib.__file__)]
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        where = f"{own[-1].filename}:{own[-1].lineno}" if own else entry
    lines = "".join(traceback.format_list(own) + traceback.format_exception_only(error))
    tail = "\n".join(lines.rstrip().splitlines()[-_TRACEBACK_LINES:])
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name != target.module:
        hint = f"\nis {error.name!r} missing in the service's python-dependencies?"
    return (
        f"importing {target.module!r} from {entry} failed at {where}: "
        f"{type(error).__name__}: {error}{hint}\n{tail}"
    )


def _attribute(module: ModuleType, target: ImportTarget) -> Any:
    found: Any = module
    for part in target.attr.split("."):
        if not hasattr(found, part):
            public = sorted(name for name in vars(module) if not name.startswith("_"))
            near = difflib.get_close_matches(part, public, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise WorkflowLoadError(
                f"{module.__file__} has no attribute {target.attr!r}{hint} "
                f"(it has: {', '.join(_workflows_first(module, public)[:20]) or 'none'})"
            )
        found = getattr(found, part)
    return found


def _workflows_first(module: ModuleType, names: list[str]) -> list[str]:
    from workflows import Workflow

    def other(name: str) -> bool:
        value = getattr(module, name)
        return not (isinstance(value, Workflow) or _is_workflow_class(value))

    return sorted(names, key=lambda name: (other(name), name))


def _is_workflow_class(value: object) -> bool:
    from workflows import Workflow

    return isinstance(value, type) and issubclass(value, Workflow) and value is not Workflow


def _workflow(found: Any, path: str) -> Workflow:
    from workflows import Workflow

    if isinstance(found, Workflow):
        return found
    made = found
    if _is_workflow_class(found) or (callable(found) and not isinstance(found, type)):
        try:
            made = found()
        except Exception as error:
            tail = "".join(traceback.format_exception(error)).splitlines()[-_TRACEBACK_LINES:]
            raise WorkflowLoadError(
                f"path {path!r}: calling it without arguments to get the workflow raised "
                f"{type(error).__name__}: {error}\n" + "\n".join(tail)
            ) from error
    if isinstance(made, Workflow):
        return made
    if hasattr(made, "__await__"):
        made.close()
        raise WorkflowLoadError(
            f"path {path!r}: the function is async; it must return the workflow directly"
        )
    raise WorkflowLoadError(
        f"path {path!r} is a {type(made).__name__}; it must be a workflows.Workflow (the one of "
        "llama_index.core.workflow is the same), a subclass of it, or a function that returns one"
    )


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED and name[0] != "."]
        for name in names:
            if name[0] != "." and not name.endswith(".pyc"):
                yield Path(folder) / name


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > _WHOLE_FILES_UP_TO:
            return f"{size} bytes".encode()
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:  # a dangling link, or a file that has just gone
        return type(error).__name__.encode()
