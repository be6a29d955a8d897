"""How many replicas a service should have: pure, without clock, I/O or Kubernetes.

``decide(policy, reading, current, history, now)`` is the whole of it. It follows the rules of the
HorizontalPodAutoscaler v2 (tolerance, stabilization windows, rate policies) on a service's backlog,
and adds what a queue needs: from zero at once, to zero only after the window, never below what
holds work. The caller reads ``/scaling``, writes ``/scale``, and keeps the history in between.
"""

from __future__ import annotations

from llamadeploy_operator.autoscaling.algorithm import Decision, decide
from llamadeploy_operator.autoscaling.history import History
from llamadeploy_operator.autoscaling.policy import (
    DEFAULT_SCALE_DOWN,
    DEFAULT_SCALE_UP,
    Floor,
    Policy,
    RatePolicy,
    Rules,
)
from llamadeploy_operator.autoscaling.reading import Reading
from llamadeploy_operator.autoscaling.schedules import floor_at

__all__ = [
    "DEFAULT_SCALE_DOWN",
    "DEFAULT_SCALE_UP",
    "Decision",
    "Floor",
    "History",
    "Policy",
    "RatePolicy",
    "Reading",
    "Rules",
    "decide",
    "floor_at",
]
