"""Where the end-to-end tests get their cluster from: ``kind``, ``existing`` or ``local``."""

from __future__ import annotations

import os

from e2e.cluster.build import Report
from e2e.providers.base import Provider, ProviderUnavailableError
from e2e.providers.existing import Existing
from e2e.providers.kind import Kind
from e2e.providers.local import Local

PROVIDERS: dict[str, type[Provider]] = {"local": Local, "kind": Kind, "existing": Existing}
"""In the order in which they are tried; ``existing`` is never picked by itself."""

CHOICE = "LLAMADEPLOY_E2E_PROVIDER"


def choose(report: Report = lambda line: None) -> Provider:
    """The provider that ``LLAMADEPLOY_E2E_PROVIDER`` names, else the first that this machine can
    do. It is not started.

    Raises:
        ProviderUnavailableError: none; says what is missing for each.
    """
    wanted = os.environ.get(CHOICE)
    if wanted and wanted not in PROVIDERS:
        raise ProviderUnavailableError(f"{CHOICE}: write {', '.join(PROVIDERS)}, not {wanted!r}")
    problems = []
    for name in [wanted] if wanted else ["local", "kind"]:
        lacking = PROVIDERS[name].missing()
        if not lacking:
            return PROVIDERS[name](report)
        problems.append(f"{name}: {lacking}")
    raise ProviderUnavailableError("; ".join(problems))
