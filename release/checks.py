"""The checks: each gives what is wrong, one line each, and is empty where nothing is."""

from __future__ import annotations

import re
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from release.bill import pins
from release.compatibility import breaking_definition, breaking_values
from release.history import file_at, files_at, previous_tag

Check = Callable[[Path, str], Iterator[str]]

CHARTS = ("helm/llamadeploy-crds", "helm/llamadeploy-operator")
IMAGE_EXTRAS = ("redis", "rabbitmq", "postgresql", "operator")
"""Extras of ``requirements/image.lock``; see the target ``lock`` of the Makefile."""


def version_of(root: Path) -> str:
    """The release's number, from the one file that has it."""
    text = (root / "runtime/llamadeploy/_version.py").read_text()
    return str(re.findall(r'__version__ = "([^"]+)"', text)[0])


def versions(root: Path, version: str) -> Iterator[str]:
    """One number everywhere."""
    try:
        Version(version)
    except InvalidVersion:
        yield f"_version.py: '{version}' is no version; write 1.2.3 or 1.2.3rc1"
    for chart in CHARTS:
        found = yaml.safe_load((root / chart / "Chart.yaml").read_text())
        for key in ("version", "appVersion"):
            if found[key] != version:
                yield f"{chart}/Chart.yaml: {key} is {found[key]}, not {version}; run `make charts`"
    places = ("examples/custom-image/Dockerfile", "docs/installation.md")
    for place in places:
        for tag in re.findall(r"llamadeploy:(\d[\w.]*\w)", (root / place).read_text()):
            if tag != version:
                yield f"{place}: names the image's tag {tag}, not {version}"
    if 'org.opencontainers.image.version="${VERSION}"' not in (root / "Dockerfile").read_text():
        yield "Dockerfile: the image's version label does not come from the argument VERSION"


def changelog(root: Path, version: str) -> Iterator[str]:
    """A section with a date, and nothing left over."""
    text = (root / "CHANGELOG.md").read_text()
    head = rf"(?m)^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}$"
    if not re.search(head, text):
        yield f"CHANGELOG.md: no section '## [{version}] - YYYY-MM-DD'; rename [Unreleased]"
    unreleased = section(text, "Unreleased")
    if re.search(r"(?m)^- ", unreleased):
        yield "CHANGELOG.md: there are entries under [Unreleased]"


def section(changelog: str, name: str) -> str:
    """The text below a version's heading, up to the next one."""
    found = re.search(rf"(?ms)^## \[{re.escape(name)}\].*?\n(.*?)(?=^## \[|\Z)", changelog)
    return found[1] if found else ""


def tag(root: Path, version: str) -> Iterator[str]:
    """A released number is not used for another commit."""
    run = ["git", "rev-parse", "--verify", "--quiet"]
    tagged = subprocess.run(
        [*run, f"v{version}^{{commit}}"], cwd=root, capture_output=True, text=True
    )
    head = subprocess.run([*run, "HEAD"], cwd=root, capture_output=True, text=True)
    if tagged.returncode == 0 and tagged.stdout != head.stdout:
        yield f"v{version} is the tag of another commit; raise the number in _version.py"


def locks(root: Path, version: str) -> Iterator[str]:
    """The image's lock has what pyproject.toml asks for, with hashes and without addresses."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for extra in IMAGE_EXTRAS:
        asked += project["optional-dependencies"][extra]
    for name in ("image", "runtime", "dev", "docs", "build"):
        text = (root / f"requirements/{name}.lock").read_text()
        if "://" in re.sub(r"(?m)^\s*#.*$", "", text):
            yield f"requirements/{name}.lock: holds an address"
        try:
            locked = {canonicalize_name(pin.name): pin.version for pin in pins(text)}
        except ValueError as error:
            yield f"requirements/{name}.lock: {error}"
            continue
        if name == "image":
            yield from _unmet(asked, locked)


def _unmet(asked: list[str], locked: dict[str, str]) -> Iterator[str]:
    for requirement in map(Requirement, asked):
        found = locked.get(canonicalize_name(requirement.name))
        if found is None:
            yield f"requirements/image.lock: {requirement.name} is missing; run `make lock`"
        elif found not in requirement.specifier:
            yield f"requirements/image.lock: {requirement} is not met by {found}; run `make lock`"


def written(root: Path, version: str) -> Iterator[str]:
    """Files that are written from code are up to date."""
    from docs.site import __main__ as site
    from helm import generate
    from llamadeploy.api_server import openapi
    from llamadeploy.cli import reference
    from llamadeploy_operator.models import crd

    for name in openapi.write(root / "docs", check=True):
        yield f"docs/{name}: run `make openapi`"
    for name, page in site.PAGES.items():
        if (root / "docs/reference" / name).read_text() != page():
            yield f"docs/reference/{name}: run `make reference`"
    for name, build in crd.CRDS.items():
        if (root / "crds" / name).read_text() != crd.render(build()):
            yield f"crds/{name}: run `make crds`"
        template = root / "helm/llamadeploy-crds/templates" / name
        if template.read_text() != generate.definition(build()):
            yield f"{template.relative_to(root)}: run `make charts`"
    commands = (root / "docs/cli.md").read_text()
    if commands != reference.updated(commands):
        yield "docs/cli.md: run `python -m llamadeploy.cli.reference`"


def charts(root: Path, version: str) -> Iterator[str]:
    """The charts pass Helm's lint and render, and what is rendered names this version."""
    from e2e.cluster.build import BuildUnavailableError, helm_binary
    from helm.manifests import manifests

    try:
        helm = helm_binary(lambda line: print(line, flush=True))
    except BuildUnavailableError as error:
        yield f"charts cannot be rendered here: {error}"
        return
    with tempfile.TemporaryDirectory() as home:
        for chart in CHARTS:
            done = subprocess.run(
                [helm, "lint", "--strict", root / chart], env={"HOME": home},
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode != 0:
                yield f"{chart}: {done.stdout.strip()} {done.stderr.strip()}"
    for name, text in manifests(helm).items():
        kinds = [each["kind"] for each in yaml.safe_load_all(text) if each]
        wanted = "CustomResourceDefinition" if name == "crds.yaml" else "Deployment"
        if wanted not in kinds:
            yield f"dist/{name}: has no {wanted}"
        if name == "install.yaml" and f":{version}" not in text:
            yield f"dist/{name}: names no image of {version}"


def compatibility(root: Path, version: str) -> Iterator[str]:
    """What the last release accepted is accepted, or the changelog says ``### Breaking``."""
    before = previous_tag(root, version)
    if before is None:
        return
    broken = list(_broken(root, before))
    text = (root / "CHANGELOG.md").read_text()
    if broken and not any(
        "### Breaking" in section(text, name) for name in (version, "Unreleased")
    ):
        yield f"against {before}, and CHANGELOG.md has no '### Breaking' for {version}:"
        yield from (f"  {line}" for line in broken)


def _broken(root: Path, before: str) -> Iterator[str]:
    for path in files_at(root, before, "crds"):
        old = yaml.safe_load(file_at(root, before, path) or "")
        if old.get("kind") != "CustomResourceDefinition":
            continue
        if not (root / path).exists():
            yield f"{path}: removed"
            continue
        new = yaml.safe_load((root / path).read_text())
        yield from (f"{path}: {line}" for line in breaking_definition(old, new))
    for chart in CHARTS:
        path = f"{chart}/values.yaml"
        old = yaml.safe_load(file_at(root, before, path) or "") or {}
        new = yaml.safe_load((root / path).read_text()) or {}
        yield from (f"{path}: {line}" for line in breaking_values(old, new))


ALL: dict[str, Check] = {
    "version": versions,
    "changelog": changelog,
    "tag": tag,
    "locks": locks,
    "written files": written,
    "charts and manifests": charts,
    "compatibility": compatibility,
}
