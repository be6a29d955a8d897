"""Local sources -> ConfigMap sources: what a cluster can have of a folder of this machine."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import PurePosixPath

from dotenv import dotenv_values

from llamadeploy.spec.deployment import DeploymentSpec, ServiceSpec, SourceSpec
from llamadeploy.spec.import_targets import candidate_imports
from llamadeploy.spec.names import resource_name
from llamadeploy.spec.problems import SpecError, SpecProblem

LocalFiles = Mapping[str, Mapping[str, str]]
"""Name of a local source -> path relative to its folder -> text."""


def inline_local_sources(spec: DeploymentSpec, local_files: LocalFiles) -> DeploymentSpec:
    """``spec`` with every local source as a ConfigMap of its files.

    The files of the source's folder become the root of the code, unless ``path`` names the folder
    itself as a package; ``path`` is written so that there is one reading of it. Env files
    become variables that are kept in a Secret, as they usually hold credentials. (References to
    other variables in them are left as they are.)

    Raises:
        SpecError: a source's files are not given, or neither reading of a ``path`` or env file
            leads to one of them.
    """
    problems: list[SpecProblem] = []
    services = {
        name: _inline(spec.name, service, local_files, problems)
        for name, service in spec.services.items()
    }
    if problems:
        raise SpecError(problems)
    return spec.model_copy(update={"services": services})


def _inline(
    deployment: str, service: ServiceSpec, local_files: LocalFiles, problems: list[SpecProblem]
) -> ServiceSpec:
    folder = service.source.name
    if service.source.type != "local" or folder is None:
        return service
    at = f"services.{service.name}"
    if folder not in local_files:
        wrong = f"the folder '{folder}' is on this machine, where a cluster cannot read it"
        right = "use a git source, or give its files"
        problems.append(SpecProblem(f"{at}.source", wrong, right))
        return service
    files = {str(PurePosixPath(folder, path)): text for path, text in local_files[folder].items()}
    targets = candidate_imports(service.path, folder)
    hit = next((item for item in targets if any(file in files for file in item.files)), None)
    if hit is None:
        looked = ", ".join(file for item in targets for file in item.files)
        wrong = f"no file fits '{service.path}'"
        problems.append(SpecProblem(f"{at}.path", wrong, f"one of these must exist: {looked}"))
        return service
    env, taken = _env_files(service, folder, files, problems)
    kept = {path: text for path, text in files.items() if path not in taken}
    entry = PurePosixPath(hit.sys_path_entry)
    if folder != "." and entry.is_relative_to(folder):
        entry = entry.relative_to(folder)
        kept = {str(PurePosixPath(path).relative_to(folder)): kept[path] for path in kept}
    name = resource_name(f"{deployment}-{folder}" if folder != "." else f"{deployment}-source")
    return service.model_copy(
        update={
            "source": SourceSpec(type="configmap", name=name, files=kept),
            "path": f"{entry / hit.module}:{hit.attr}",
            "env": service.env | env,
            "secret_env": sorted({*service.secret_env, *env}),
            "env_files": [],
        }
    )


def _env_files(
    service: ServiceSpec, folder: str, files: Mapping[str, str], problems: list[SpecProblem]
) -> tuple[dict[str, str], set[str]]:
    """Variables of the env files, the later file wins; and which files those are."""
    env: dict[str, str] = {}
    taken: set[str] = set()
    for index, env_file in enumerate(service.env_files):
        places = [str(PurePosixPath(env_file)), str(PurePosixPath(folder, env_file))]
        place = next((item for item in places if item in files), None)
        if place is None:
            wrong = f"'{env_file}' is not in the source"
            right = f"move it to {places[1]}, or write its variables under env"
            field = f"services.{service.name}.env-files[{index}]"
            problems.append(SpecProblem(field, wrong, right))
            continue
        taken.add(place)
        values = dotenv_values(stream=io.StringIO(files[place]), interpolate=False)
        env |= {key: value for key, value in values.items() if value is not None}
    return env, taken
