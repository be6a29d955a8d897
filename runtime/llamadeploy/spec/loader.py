"""Text of a deployment file, in either form, -> deployments."""

from __future__ import annotations

from llamadeploy.spec.deployment import DeploymentSpec
from llamadeploy.spec.documents import Document, read_documents
from llamadeploy.spec.from_file import from_file
from llamadeploy.spec.from_manifest import from_manifests
from llamadeploy.spec.problems import SpecError, SpecProblem


def load_deployments(text: str, *, file: str | None = None) -> list[DeploymentSpec]:
    """Every deployment of ``text``, in its order.

    A document with ``apiVersion`` or ``kind`` is a Kubernetes object, every other one a LlamaDeploy
    deployment file. ConfigMaps, Secrets and WorkflowServices belong to the text's Deployments.

    Args:
        text: YAML of one or several documents.
        file: the file's name, for messages.

    Raises:
        SpecError: one problem or more; none of the deployments is to be used then.
    """
    problems: list[SpecProblem] = []
    documents = read_documents(text, file=file)
    manifests: list[Document] = []
    found: list[tuple[Document, DeploymentSpec]] = []
    for document in documents:
        if not isinstance(document.data, dict):
            wrong = "the document is not a mapping"
            problems.append(document.problem((), wrong, "write 'key: value' lines"))
        elif "apiVersion" in document.data or "kind" in document.data:
            manifests.append(document)
        elif (spec := from_file(document, problems)) is not None:
            found.append((document, spec))
    found += from_manifests(manifests, problems)
    found.sort(key=lambda item: item[0].line(()) or 0)
    _check_unique(found, problems)
    if problems:
        raise SpecError(problems)
    return [spec for _, spec in found]


def load_deployment(text: str, *, file: str | None = None) -> DeploymentSpec:
    """The one deployment of ``text``.

    Raises:
        SpecError: it is wrong, or there is none, or there are several.
    """
    specs = load_deployments(text, file=file)
    if len(specs) == 1:
        return specs[0]
    if not specs:
        wrong = "there is no deployment in it"
        right = "write a deployment file (name, control-plane, services) or a 'kind: Deployment'"
    else:
        wrong = f"there are {len(specs)} deployments in it: {', '.join(s.name for s in specs)}"
        right = "put each into a file of its own"
    raise SpecError([SpecProblem("", wrong, right, file=file or "<text>")])


def _check_unique(
    found: list[tuple[Document, DeploymentSpec]], problems: list[SpecProblem]
) -> None:
    seen: dict[str, Document] = {}
    for document, spec in found:
        path = ("metadata", "name") if "kind" in document.data else ("name",)
        if spec.name in seen:
            first = seen[spec.name].line(())
            wrong = f"a deployment named '{spec.name}' is in this file already, from line {first}"
            problems.append(document.problem(path, wrong, "give it another name"))
        seen.setdefault(spec.name, document)
