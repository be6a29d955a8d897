"""Decisions one by one, beside what HPA's documentation and design say of the same case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamadeploy_operator.autoscaling import (
    Decision,
    Floor,
    History,
    Policy,
    RatePolicy,
    Reading,
    Rules,
    decide,
)

NOW = 1_800_000_000.0
FREE = Rules(0.0)
"""No window, no limit of the rate."""


def policy(**changes: object) -> Policy:
    made = Policy(0, 100, target_backlog=5, scale_up=FREE, scale_down=FREE)
    return replace(made, **changes)  # type: ignore[arg-type]


def reading(ready: int = 0, *in_flight: int, at: float = NOW, oldest: float = 0.0) -> Reading:
    replicas = tuple((f"w-{i}", tasks) for i, tasks in enumerate(in_flight))
    return Reading(at, ready, unacked=sum(in_flight), oldest_seconds=oldest, in_flight=replicas)


def run(
    rules: Policy,
    backlogs: list[int],
    current: int,
    every: float = 15.0,
    history: History | None = None,
) -> tuple[list[int], list[Decision]]:
    """The replicas after each decision, when the backlogs follow each other."""
    history = history or History()
    counts, decisions = [], []
    for step, backlog in enumerate(backlogs):
        now = NOW + step * every
        decision = decide(rules, reading(backlog, at=now), current, history, now)
        current, history = decision.replicas, decision.history
        counts.append(current)
        decisions.append(decision)
    return counts, decisions


@pytest.mark.parametrize(
    ("backlog", "current", "expected"),
    [
        (10, 1, 2),  # "if the current value is 200m and the desired 100m, the number doubles"
        (10, 4, 2),  # "if it is 50m, the number is halved"
        (22, 4, 4),  # "no action where the ratio is sufficiently close to 1.0 (0.1 by default)"
        (23, 4, 5),
        (18, 4, 4),  # and the other way
        (17, 4, 4),  # ceil(3.4) is 4
        (15, 4, 3),
    ],
)
def test_ratio_and_tolerance_of_hpa(backlog: int, current: int, expected: int) -> None:
    counts, _ = run(policy(min_replicas=1), [backlog], current)
    assert counts == [expected]


def test_scaling_out_by_hpas_defaults_doubles_or_adds_four_each_15_seconds() -> None:
    """'4 pods or 100% every 15 seconds, whichever is highest': 1, 5, 10, 20, 40, 80."""
    rules = Policy(1, 1000, target_backlog=1, scale_down=FREE)
    counts, decisions = run(rules, [500] * 6, 1)
    assert counts == [5, 10, 20, 40, 80, 160]
    assert {each.limited for each in decisions} == {"ScaleUpLimit"}


def test_a_rate_is_of_its_whole_period() -> None:
    """4 pods per 60 s, asked each 15 s: four at once, then none for the rest of the period."""
    up = Rules(0.0, (RatePolicy("Pods", 4, 60),))
    counts, _ = run(policy(scale_up=up, target_backlog=1), [50] * 6, 1)
    assert counts == [5, 5, 5, 5, 9, 9]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        # HPA's example: 'Percent 10 and Pods 4 per 60 s': from 80, 8 go first; below 40 it is
        # the 4 pods that allow more.
        ("Max", [72, 64, 57, 51, 45, 40, 36, 32]),
        ("Min", [76, 72, 68, 64, 60, 56, 52, 48]),
        ("Disabled", [80] * 8),
    ],
)
def test_scaling_in_by_percent_or_pods(select: str, expected: list[int]) -> None:
    """As the walkthrough of ``behavior``: 80 -> 72 -> 64.8 -> ... ; at 40 and below, 4 at a time.
    HPA truncates what percents leave."""
    policies = (RatePolicy("Pods", 4, 60), RatePolicy("Percent", 10, 60))
    down = Rules(0.0, policies, select)  # type: ignore[arg-type]
    counts, _ = run(policy(scale_down=down, min_replicas=1), [1] * 8, 80, every=61)
    assert counts == expected


def test_stabilization_takes_the_highest_recommendation_of_the_window() -> None:
    """The example of the design document (KEP-853): 600 s, one look a minute, 10 replicas, the
    recommendations 10 9 8 9 9 8 9 8 9 8 7: ten looks change nothing, the eleventh gives 9."""
    down = Rules(600.0)
    wanted = [10, 9, 8, 9, 9, 8, 9, 8, 9, 8, 7]
    rules = Policy(1, 100, target_backlog=1, scale_up=FREE, scale_down=replace(down, tolerance=0.0))
    counts, decisions = run(rules, wanted, 10, every=60)
    assert counts == [10] * 10 + [9]
    assert decisions[4].limited == "ScaleDownStabilized"


def test_stabilization_of_scaling_out_takes_the_lowest() -> None:
    """KEP-853, 'avoid false positive signals for scaling up': 300 s, once a minute."""
    wanted = [10, 20, 12, 13, 14, 15, 16]
    rules = Policy(1, 100, target_backlog=1, scale_up=Rules(300.0), scale_down=FREE)
    counts, _ = run(rules, wanted, 10, every=60)
    assert counts == [10, 10, 10, 10, 10, 12, 12]


def test_a_missing_reading_holds_and_says_so() -> None:
    decision = decide(policy(), None, 7, History(), NOW)
    assert (decision.replicas, decision.reason, decision.limited) == (7, "MetricUnavailable", None)
    assert "7 replicas stay" in decision.message


def test_after_a_missing_reading_the_window_to_zero_starts_anew() -> None:
    rules = policy(scale_down=Rules(60.0))
    held = decide(rules, None, 5, History(), NOW)
    later = decide(rules, reading(at=NOW + 600), 5, held.history, NOW + 600)
    assert (later.replicas, later.limited) == (5, "ScaleDownStabilized")
    last = decide(rules, reading(at=NOW + 661), 5, later.history, NOW + 661)
    assert last.replicas == 0


def test_a_first_decision_scales_nothing_in_before_the_window() -> None:
    """A restarted operator has no history, and has seen nothing idle yet."""
    counts, _ = run(policy(scale_down=Rules(60.0)), [0] * 6, 3)
    assert counts == [3, 3, 3, 3, 0, 0]


def test_from_zero_at_once() -> None:
    closed = Rules(300.0, select="Disabled")
    decision = decide(policy(scale_up=closed), reading(1), 0, History(), NOW)
    assert (decision.replicas, decision.reason) == (1, "ScaledUp")


def test_from_zero_as_many_as_the_rate_allows() -> None:
    rules = Policy(0, 100, target_backlog=5)
    assert decide(rules, reading(1000), 0, History(), NOW).replicas == 4


def test_parked_tasks_ask_for_nothing() -> None:
    idle = Reading(NOW, parked=50)
    assert decide(policy(), idle, 0, History(), NOW).replicas == 0
    assert decide(policy(), idle, 3, History(), NOW).replicas == 0


def test_what_holds_work_is_not_scaled_in() -> None:
    decision = decide(policy(), reading(0, 1, 0, 1, 1), 4, History(), NOW)
    assert (decision.replicas, decision.limited) == (3, "WorkInFlight")


def test_what_holds_work_asks_for_no_more_than_is_there() -> None:
    """Replicas on their way out still hold some."""
    decision = decide(policy(target_backlog=10), reading(0, 1, 1, 1, 1), 2, History(), NOW)
    assert decision.replicas == 2


def test_the_most_and_the_least() -> None:
    assert (
        decide(policy(max_replicas=3), reading(90), 2, History(), NOW).limited == "TooManyReplicas"
    )
    least = decide(policy(min_replicas=2), reading(1), 4, History(), NOW)
    assert (least.replicas, least.limited) == (2, "TooFewReplicas")
    assert decide(policy(max_replicas=2), reading(0, 1, 1, 1), 3, History(), NOW).replicas == 2


def test_a_floor_of_the_clock_raises_the_least_even_without_a_reading() -> None:
    floor = Floor("* * * * *", "0 0 1 1 *", "UTC", 4)
    assert decide(policy(floors=(floor,)), None, 1, History(), NOW).replicas == 4
    assert decide(policy(floors=(floor,)), reading(), 4, History(), NOW).replicas == 4


def test_while_nothing_waits_the_mean_of_the_running_tasks_counts() -> None:
    """40 in work for 50 s, 55 for 10 s: 8.5 replicas, not 11; once a task waits, all at once."""
    history = History()
    for second in range(60):
        history = history.see(reading(0, 40 if second < 50 else 55, at=NOW - 60 + second))
    assert decide(policy(), reading(0, 55), 8, history, NOW).replicas == 8
    assert decide(policy(), reading(0, 55), 7, history, NOW).replicas == 9
    assert decide(policy(), reading(1, 54), 8, history, NOW).replicas == 11


class TestTargetWait:
    def rules(self, target: float = 30.0, **changes: object) -> Policy:
        return policy(target_backlog=None, target_wait_seconds=target, **changes)

    def test_a_backlog_is_divided_by_the_pace_that_was_seen(self) -> None:
        """One replica starts 8 tasks a second: 920 would take 115 s, four replicas 29."""
        history = History().see(reading(1000, 8, at=NOW - 10, oldest=0))
        decision = decide(self.rules(), reading(920, 8, oldest=10), 1, history, NOW)
        assert decision.replicas == 4

    def test_under_a_steady_load_the_age_is_the_wait(self) -> None:
        history = History().see(reading(500, 8, 8, at=NOW - 10, oldest=60))
        decision = decide(self.rules(), reading(500, 8, 8, oldest=60), 2, history, NOW)
        assert decision.replicas == 4

    def test_without_a_pace_the_first_ones_wait_counts(self) -> None:
        decision = decide(self.rules(), reading(500, 8, oldest=90), 1, History(), NOW)
        assert decision.replicas == 3

    def test_replicas_that_start_are_not_asked_for_twice(self) -> None:
        """One of four works yet: the other three are those that its pace asked for."""
        history = History().see(reading(1000, 8, at=NOW - 10, oldest=0))
        decision = decide(self.rules(), reading(920, 8, oldest=10), 4, history, NOW)
        assert decision.replicas == 4

    def test_while_nobody_works_yet_nothing_is_concluded(self) -> None:
        assert decide(self.rules(), reading(50, oldest=500), 3, History(), NOW).replicas == 3

    def test_a_service_that_keeps_up_keeps_its_slots(self) -> None:
        """19 tasks run on 8 slots each, of which 80 % are counted: three replicas."""
        decision = decide(self.rules(), reading(0, 7, 6, 6), 5, History(), NOW)
        assert decision.replicas == 3
        wider = self.rules(tasks_per_replica=32)
        assert decide(wider, reading(0, 19, 0, 0), 5, History(), NOW).replicas == 1


def test_looks_again_when_the_window_lets_go() -> None:
    rules = policy(scale_down=Rules(20.0))
    first = decide(rules, reading(25), 5, History(), NOW)
    later = decide(rules, reading(0, at=NOW + 12), 5, first.history, NOW + 12)
    assert later.limited == "ScaleDownStabilized"
    assert later.look_again_seconds == pytest.approx(8.0)
    moment = NOW + 12 + later.look_again_seconds
    assert decide(rules, reading(0, at=moment), 5, later.history, moment).replicas == 0
