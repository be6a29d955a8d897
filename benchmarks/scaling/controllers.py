"""Those that are compared: the operator's autoscaler, HPA's rules, KEDA's defaults.

All of them divide the same backlog by the same target. HPA's loop is the operator's module with
HPA's own rules: its tests hold it against HPA's documentation.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.scaling.simulation import SLOTS
from llamadeploy_operator.autoscaling import History, Policy, Reading, Rules, decide
from llamadeploy_operator.autoscaling.policy import DEFAULT_SCALE_DOWN, HPA_SCALE_DOWN_SECONDS

TARGET_BACKLOG = 5.0
TARGET_WAIT_SECONDS = 10.0
MOST = 100

HPA_SYNC_SECONDS = 15.0
"""``--horizontal-pod-autoscaler-sync-period``, its default."""
KEDA_POLL_SECONDS = 30.0
"""``pollingInterval`` of a ScaledObject, its default: how often it looks whether to leave zero."""
KEDA_COOLDOWN_SECONDS = 300.0
"""``cooldownPeriod`` of a ScaledObject, its default: from the last activity to zero."""
WATCH_SECONDS = 1.0
"""The operator holds a long poll on ``/scaling``; a change reaches it within about a second."""

HPA_RULES = replace(DEFAULT_SCALE_DOWN, stabilization_seconds=HPA_SCALE_DOWN_SECONDS)


class Operator:
    """The built-in autoscaler, with its defaults."""

    picks_idle = True

    def __init__(self, name: str = "operator", **changes: object) -> None:
        self.name = name
        policy = Policy(0, MOST, target_backlog=TARGET_BACKLOG, tasks_per_replica=SLOTS)
        self._policy = replace(policy, **changes)  # type: ignore[arg-type]
        self._history = History()

    def look(self, reading: Reading, current: int, now: float) -> tuple[int, float]:
        """At every change."""
        decision = decide(self._policy, reading, current, self._history, now)
        self._history = decision.history
        return decision.replicas, WATCH_SECONDS


class Hpa:
    """A HorizontalPodAutoscaler on the backlog as an external metric; it knows no zero."""

    name = "HPA"
    picks_idle = False

    def __init__(self, most: int = MOST) -> None:
        self._policy = Policy(1, most, target_backlog=TARGET_BACKLOG, scale_down=HPA_RULES)
        self._history = History()

    def look(self, reading: Reading, current: int, now: float) -> tuple[int, float]:
        """Each 15 s. It does not see who works."""
        seen = replace(reading, in_flight=())
        decision = decide(self._policy, seen, max(1, current), self._history, now)
        self._history = decision.history
        return decision.replicas, HPA_SYNC_SECONDS


class Keda:
    """A ScaledObject: KEDA alone between zero and one, its HPA above."""

    name = "KEDA"
    picks_idle = False

    def __init__(self, most: int = MOST) -> None:
        self._hpa = Hpa(most)
        self._polled = self._synced = -1e9
        self._active = 0.0

    def look(self, reading: Reading, current: int, now: float) -> tuple[int, float]:
        """KEDA each 30 s, the HPA each 15 s."""
        if now - self._polled >= KEDA_POLL_SECONDS:
            self._polled = now
            current = self._poll(reading, current, now)
        if current and now - self._synced >= HPA_SYNC_SECONDS:
            self._synced = now
            current, _ = self._hpa.look(reading, current, now)
        return current, HPA_SYNC_SECONDS

    def _poll(self, reading: Reading, current: int, now: float) -> int:
        if reading.backlog:
            self._active = now
            return max(1, current)
        return 0 if now - self._active >= KEDA_COOLDOWN_SECONDS else current


def controllers() -> list[Operator | Hpa | Keda]:
    """Fresh ones: each keeps a history."""
    return [
        Operator(),
        Operator(
            f"operator, wait {TARGET_WAIT_SECONDS:.0f} s",
            target_backlog=None,
            target_wait_seconds=TARGET_WAIT_SECONDS,
        ),
        Operator("operator, window 300 s", scale_down=Rules(300.0, DEFAULT_SCALE_DOWN.policies)),
        Hpa(),
        Keda(),
    ]
