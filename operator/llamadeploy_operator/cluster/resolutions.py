"""Results of resolver Jobs: out of the Job's log, into a ConfigMap, and from there to the pods."""

from __future__ import annotations

import logging

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import CONFIG_MAP, JOB, POD
from llamadeploy_operator.cluster.observe import conditions
from llamadeploy_operator.desired import Resolution
from llamadeploy_operator.desired.resolution import (
    BadResolutionError,
    NeededResolution,
    parse_resolution,
    read_resolution,
)
from llamadeploy_operator.errors import Problem
from llamadeploy_operator.reasons import Reason

logger = logging.getLogger(__name__)

#: A lock of dependencies has about 100 KB; more than a ConfigMap holds is refused anyway.
LOG_LIMIT = 2_000_000


class Resolutions:
    """Finds what a source was resolved to. Immutable ConfigMaps, read once each."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api = api
        self._cache = cache
        self._known: dict[ObjectKey, tuple[str, Resolution]] = {}

    async def find(
        self, namespace: str, needed: NeededResolution
    ) -> tuple[Resolution | None, Problem | None]:
        """The resolution that ``needed`` asks for (``None`` while there is none), and why there
        will be none.

        Raises:
            ApiError: something could not be read or written; try again.
        """
        key = ObjectKey(CONFIG_MAP, namespace, needed.config_map_name)
        version = self._cache.version(*key)
        known = self._known.get(key)
        if version is not None and known is not None and known[0] == version:
            return known[1], None
        if version is not None:
            found = read_resolution(await self._api.get(*key))
            if found is not None and needed.met_by(found):
                self._known[key] = (version, found)
                return found, None
        return await self._from_job(namespace, needed)

    async def _from_job(
        self, namespace: str, needed: NeededResolution
    ) -> tuple[Resolution | None, Problem | None]:
        job = self._cache.get(JOB, namespace, needed.job_name)
        if job is None or conditions(job.get("status") or {}).get("Complete", ("",))[0] != "True":
            return None, None
        log = await self._log(namespace, job["metadata"]["uid"])
        if log is None:
            return None, None
        try:
            return parse_resolution(needed, log), None
        except BadResolutionError as error:
            return None, Problem(Reason.SOURCE_FAILED, str(error), stalled=True)

    async def _log(self, namespace: str, job_uid: str) -> str | None:
        """The log of the pod in which the Job succeeded; ``None``: it is not there any more."""
        for key in self._cache.keys(POD, namespace):
            pod = self._cache.get(*key)
            if pod is None or (pod.get("status") or {}).get("phase") != "Succeeded":
                continue
            references = pod["metadata"].get("ownerReferences") or ()
            if any(reference["uid"] == job_uid for reference in references):
                query = {"limitBytes": str(LOG_LIMIT)}
                try:
                    raw = await self._api.raw(
                        "GET", POD.path(namespace, key.name, "log"), query=query, accept="*/*"
                    )
                except ApiError as error:
                    if error.not_found:
                        continue
                    raise
                return raw.decode(errors="replace")
        return None
