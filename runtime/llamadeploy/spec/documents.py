"""YAML text -> documents whose every value knows its line.

Only YAML's plain types come out (mapping, list, string, number, boolean, null): dates stay strings,
as in a Kubernetes manifest, and tags that would build Python objects are errors.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from llamadeploy.spec.problems import Path, SpecError, SpecProblem, format_path

MAX_NODES = 200_000
"""Values per text, aliases counted each time: a text of a few lines can expand to billions."""


@dataclass
class Document:
    """One YAML document: plain ``data``, and the line (from 1) of each value's key or item."""

    data: Any
    file: str | None = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of ``path``, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: Path, wrong: str, right: str) -> SpecProblem:
        """A problem at ``path`` of this document."""
        return SpecProblem(format_path(path), wrong, right, line=self.line(path), file=self.file)


class _Loader(yaml.SafeLoader):
    """SafeLoader without the YAML 1.1 timestamp, which no field of ours has."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(text: str, *, file: str | None = None) -> list[Document]:
    """The documents of ``text``, without empty ones.

    Raises:
        SpecError: the text is not YAML, or a mapping has the same key twice.
    """
    problems: list[SpecProblem] = []
    try:
        documents = list(_read(text, file, problems))
    except yaml.YAMLError as error:
        raise SpecError([_yaml_problem(error, file)]) from None
    except RecursionError:
        wrong = "the YAML is nested too deeply"
        raise SpecError([SpecProblem("", wrong, "flatten it", file=file)]) from None
    if problems:
        raise SpecError(problems)
    return documents


def _read(text: str, file: str | None, problems: list[SpecProblem]) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        budget = [MAX_NODES]
        while loader.check_node():
            document = Document(None, file)
            node = loader.get_node()
            assert node is not None  # noqa: S101  (check_node said so)
            document.lines[()] = node.start_mark.line + 1
            document.data = _Builder(loader, document, problems, budget).build(node, ())
            if document.data is not None:
                yield document
    finally:
        loader.dispose()


class _Builder:
    """Builds one document's data by hand, because the loader's own result has no lines."""

    def __init__(
        self,
        loader: _Loader,
        document: Document,
        problems: list[SpecProblem],
        budget: list[int],
    ) -> None:
        self._loader = loader
        self._document = document
        self._problems = problems
        self._budget = budget
        self._flattened: set[int] = set()
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._budget[0] -= 1
        if self._budget[0] < 0:
            raise _error(node, f"more than {MAX_NODES} values, counting aliases each time")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise _error(node, "an alias refers to the value that contains it")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return self._sequence(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (ValueError, LookupError):
            raise _error(node, f"'{str(node.value)[:40]}' is not a valid value") from None
        if isinstance(value, bytes):
            raise _error(node, "binary data is not a value here")
        return value

    def _sequence(self, node: yaml.Node, path: Path) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self._document.lines[(*path, index)] = item.start_mark.line + 1
            items.append(self.build(item, (*path, index)))
        return items

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        if id(node) not in self._flattened:
            self._flattened.add(id(node))
            self._report_duplicates(node, path)
            self._loader.flatten_mapping(node)
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            self._document.lines[(*path, key)] = key_node.start_mark.line + 1
            data[key] = self.build(value_node, (*path, key))
        return data

    def _report_duplicates(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in seen:
                self._problems.append(
                    SpecProblem(
                        format_path((*path, key)),
                        f"appears twice, first on line {seen[key]}",
                        "keep one of them, or give the other a name of its own",
                        line=line,
                        file=self._document.file,
                    )
                )
            seen.setdefault(key, line)

    def _key(self, node: yaml.Node) -> str:
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            raise _error(node, f"a key must be text, not {shown}", cure="put the key in quotes")
        return key


class _ValueError(yaml.MarkedYAMLError):
    """A value that YAML allows and a deployment file does not."""

    cure = "write plain text, a number, true or false"


def _error(node: yaml.Node, problem: str, *, cure: str | None = None) -> _ValueError:
    error = _ValueError(problem=problem, problem_mark=node.start_mark)
    error.cure = cure or error.cure
    return error


def _yaml_problem(error: yaml.YAMLError, file: str | None) -> SpecProblem:
    cure = error.cure if isinstance(error, _ValueError) else "correct the YAML there"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        wrong = error.problem or error.context or "not valid YAML"
        if "'\\t'" in wrong:
            cure = "indent with spaces, not with tabs"
        elif error.context and error.context not in wrong and not isinstance(error, _ValueError):
            wrong = f"{wrong} ({error.context})"
        return SpecProblem("", f"YAML: {wrong}", cure, mark.line + 1 if mark else None, file)
    reason = getattr(error, "reason", "not valid YAML")
    return SpecProblem("", f"YAML: {reason}", "save the file as plain UTF-8 text", file=file)
