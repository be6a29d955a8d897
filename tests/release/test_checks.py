"""`make release-check`: this tree passes, and each check fails for what it is for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamadeploy import __version__
from release import checks
from release.bill import bill, pins
from release.history import previous_tag

ROOT = Path(__file__).parents[2]


def test_this_tree_passes_but_for_an_unreleased_changelog() -> None:
    """Helm's part is in tests/helm, what is written from code is compared one by one elsewhere."""
    for name in ("version", "locks", "compatibility"):
        assert list(checks.ALL[name](ROOT, __version__)) == [], name
    assert checks.version_of(ROOT) == __version__


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the cheap checks read."""
    for path in (
        "runtime/llamadeploy/_version.py", "CHANGELOG.md", "Dockerfile", "pyproject.toml",
        "docs/installation.md", "examples/custom-image/Dockerfile",
        *(f"{chart}/{name}" for chart in checks.CHARTS for name in ("Chart.yaml", "values.yaml")),
        *(f"crds/{path.name}" for path in (ROOT / "crds").iterdir()),
        *(f"requirements/{path.name}" for path in (ROOT / "requirements").iterdir()),
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def test_versions_that_differ(tree: Path) -> None:
    assert list(checks.versions(tree, __version__)) == []
    found = "\n".join(checks.versions(tree, "9.9.9"))
    for place in ("llamadeploy-crds/Chart.yaml", "llamadeploy-operator/Chart.yaml: appVersion",
                  "custom-image/Dockerfile", "docs/installation.md"):  # fmt: skip
        assert place in found
    assert "no version" in next(checks.versions(tree, "one"))


def test_a_changelog_without_the_version(tree: Path) -> None:
    assert "no section '## [9.9.9]" in next(checks.changelog(tree, "9.9.9"))
    edit(tree / "CHANGELOG.md", lambda text: text.replace("[Unreleased]", "[9.9.9] - 2030-01-31"))
    assert list(checks.changelog(tree, "9.9.9")) == []
    edit(tree / "CHANGELOG.md", lambda text: f"## [Unreleased]\n- left over\n\n{text}")
    assert list(checks.changelog(tree, "9.9.9")) == [
        "CHANGELOG.md: there are entries under [Unreleased]"
    ]


def test_locks_that_do_not_fit(tree: Path) -> None:
    lock = tree / "requirements/image.lock"
    edit(lock, lambda text: re.sub(r"(?m)^aiohttp==\S+", "aiohttp==1.0.0", text))
    assert "aiohttp>=" in "".join(checks.locks(tree, ""))
    edit(lock, lambda text: re.sub(r"(?m)^httpx==.*\n(?:    .*\n)+", "", text))
    assert "httpx is missing" in "".join(checks.locks(tree, ""))
    edit(tree / "requirements/build.lock", lambda text: f"x @ https://host/x.whl\n{text}")
    found = "".join(checks.locks(tree, ""))
    assert "build.lock: holds an address" in found and "no pin with hashes" in found


def test_the_gate_compares_with_the_last_tag(tree: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tree, check=True, capture_output=True)

    git("init", "-q")
    assert previous_tag(tree, "0.2.0") is None
    git("add", "-A")
    git("commit", "-qm", "first")
    git("tag", "v0.1.0")
    git("tag", "v0.2.0")
    assert previous_tag(tree, "0.2.0") == "v0.1.0"
    assert list(checks.compatibility(tree, "0.2.0")) == []
    assert list(checks.tag(tree, "0.2.0")) == []

    file = tree / "crds/llamadeployments.yaml"
    crd = yaml.safe_load(file.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["suspend"]
    file.write_text(yaml.safe_dump(crd))
    values = tree / "helm/llamadeploy-operator/values.yaml"
    edit(values, lambda text: text.replace("commonLabels:", "sharedLabels:"))
    git("commit", "-qam", "second")
    found = "\n".join(checks.compatibility(tree, "0.2.0"))
    assert "against v0.1.0" in found and "spec.suspend: removed" in found
    assert "commonLabels: removed" in found
    assert "tag of another commit" in next(checks.tag(tree, "0.2.0"))

    edit(
        tree / "CHANGELOG.md",
        lambda text: text.replace("## [Unreleased]\n", "## [Unreleased]\n### Breaking\n- yes\n"),
    )
    assert list(checks.compatibility(tree, "0.2.0")) == []


def test_the_bill_of_materials_has_every_package_of_the_image() -> None:
    lock = (ROOT / "requirements/image.lock").read_text()
    document: dict[str, Any] = bill(lock, "1.2.3")
    assert document == bill(lock, "1.2.3"), "it must not change by itself"
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", document["serialNumber"])
    named = {(each["name"], each["version"]) for each in document["components"]}
    assert named == set(re.findall(r"(?m)^([\w.-]+)==([^\s;\\]+)", lock))
    for each in document["components"]:
        assert each["purl"] == each["bom-ref"] and each["purl"].startswith("pkg:pypi/")
        (reference,) = each["externalReferences"]
        assert all(re.fullmatch(r"[0-9a-f]{64}", h["content"]) for h in reference["hashes"])
    refs = [each["bom-ref"] for each in document["components"]]
    assert document["dependencies"] == [{"ref": "llamadeploy-operator", "dependsOn": refs}]
    assert len(refs) == len(set(refs)) == len(list(pins(lock)))
    json.dumps(document)
