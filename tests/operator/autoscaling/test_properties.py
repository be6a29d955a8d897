"""What holds of every decision, whatever the policy and the load."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from llamadeploy_operator.autoscaling import (
    Decision,
    History,
    Policy,
    RatePolicy,
    Reading,
    Rules,
    decide,
)

NOW = 1_800_000_000.0

RATES = st.builds(
    RatePolicy,
    st.sampled_from(["Pods", "Percent"]),
    st.integers(1, 200),
    st.integers(1, 300),
)
RULES = st.builds(
    Rules,
    st.integers(0, 600).map(float),
    st.lists(RATES, max_size=3).map(tuple),
    st.sampled_from(["Max", "Min", "Disabled"]),
    st.floats(0, 0.5),
)
TARGETS = st.sampled_from([(5.0, None), (0.5, None), (None, 30.0), (None, 2.0), (20.0, 60.0)])


@st.composite
def policies(draw: st.DrawFn, rules: st.SearchStrategy[Rules] = RULES) -> Policy:
    low = draw(st.integers(0, 5))
    backlog, wait = draw(TARGETS)
    high = draw(st.integers(max(low, 1), 50))
    return Policy(low, high, backlog, wait, draw(rules), draw(rules))


@st.composite
def loads(draw: st.DrawFn) -> list[tuple[float, Reading | None]]:
    """Readings in the order of time, some missing, from half a second to ten minutes apart."""
    now, found = NOW, []
    for _ in range(draw(st.integers(1, 16))):
        now += draw(st.sampled_from([0.5, 1, 5, 15, 61, 600]))
        found.append((now, draw(st.none() | _readings(now))))
    return found


def _readings(now: float) -> st.SearchStrategy[Reading]:
    count = st.sampled_from([0, 0, 1, 2, 7, 40, 1000])
    replicas = st.lists(st.integers(0, 8), max_size=6).map(
        lambda counts: tuple((f"w-{i}", n) for i, n in enumerate(counts))
    )
    return st.builds(
        lambda ready, custody, parked, oldest, held: Reading(
            now, ready, max(0, sum(n for _, n in held) - custody), custody, parked, oldest, held
        ),
        count, count, count, st.floats(0, 1e5), replicas,
    )  # fmt: skip


def follow(policy: Policy, load: list[tuple[float, Reading | None]], current: int) -> list[Step]:
    """Time, reading, the replicas before, and the decision, which is carried out."""
    history, found = History(), []
    for now, reading in load:
        decision = decide(policy, reading, current, history, now)
        found.append((now, reading, current, decision))
        current, history = decision.replicas, decision.history
    return found


Step = tuple[float, Reading | None, int, Decision]


@settings(max_examples=150, deadline=None)
@given(policies(), loads(), st.integers(0, 60))
def test_every_decision_keeps_the_rules(policy: Policy, load: list, start: int) -> None:
    """One run of many: making the loads takes most of the time."""
    steps = follow(policy, load, start)
    for index, step in enumerate(steps):
        within_the_least_and_the_most(policy, step)
        never_in_below_what_holds_work(policy, step)
        without_a_reading_only_the_bounds_change_it(policy, step)
        from_zero_at_once_when_there_is_work(step)
        to_zero_only_after_a_window_without_work(policy, steps[: index + 1])
        the_history_is_bounded(policy, step)


def within_the_least_and_the_most(policy: Policy, step: Step) -> None:
    assert policy.min_replicas <= step[3].replicas <= policy.max_replicas


def never_in_below_what_holds_work(policy: Policy, step: Step) -> None:
    _, reading, before, decision = step
    if reading is not None and decision.replicas < before:
        assert decision.replicas >= min(reading.working, policy.max_replicas)
        assert decision.replicas >= (1 if reading.running else 0)


def without_a_reading_only_the_bounds_change_it(policy: Policy, step: Step) -> None:
    _, reading, before, decision = step
    if reading is None:
        bounded = max(policy.min_replicas, min(policy.max_replicas, before))
        assert (decision.replicas, decision.reason) == (bounded, "MetricUnavailable")
    else:
        assert decision.reason != "MetricUnavailable"


def from_zero_at_once_when_there_is_work(step: Step) -> None:
    _, reading, before, decision = step
    if reading is not None and reading.backlog and before == 0:
        assert decision.replicas >= 1


def to_zero_only_after_a_window_without_work(policy: Policy, steps: list[Step]) -> None:
    """No work was seen in the window, no reading of it was missing, and it was seen at all."""
    now, _, before, decision = steps[-1]
    window = policy.scale_down.stabilization_seconds
    if before and not decision.replicas:
        assert now - steps[0][0] >= window
        for then, reading, _, _ in steps:
            if then > now - window:
                assert reading is not None and not reading.backlog


def the_history_is_bounded(policy: Policy, step: Step) -> None:
    history = step[3].history
    rates = (*policy.scale_up.policies, *policy.scale_down.policies)
    longest = max((each.period_seconds for each in rates), default=0)
    for entries in (history.highs, history.lows):
        assert len({each.count for each in entries}) == len(entries)
    for changes in (history.ups, history.downs):
        assert len(changes) <= longest + 1
    assert len(history.samples) <= 61


def test_the_history_stays_small_over_hours_of_decisions() -> None:
    policy = Policy(0, 50, 5.0, 30.0, scale_down=Rules(3600.0, (RatePolicy("Pods", 3, 1800),)))
    history, current, most = History(), 1, 0
    for second in range(0, 28_800, 3):
        load = int(100 + 100 * math.sin(second / 300) + second * 7919 % 23)
        now = NOW + second
        decision = decide(policy, Reading(now, load, oldest_seconds=3), current, history, now)
        current, history = decision.replicas, decision.history
        kept = (history.highs, history.lows, history.ups, history.downs, history.samples)
        most = max(most, sum(map(len, kept)))
    assert most < 400


@settings(max_examples=50, deadline=None)
@given(
    policies(st.just(Rules(60.0, (RatePolicy("Percent", 100, 15), RatePolicy("Pods", 4, 15))))),
    st.integers(0, 300),
    st.integers(0, 50),
)
def test_converges_under_a_steady_load(policy: Policy, backlog: int, start: int) -> None:
    """And then stays: with the same reading each 15 s, after a quarter of an hour at most."""
    load = [(NOW + 15 * i, Reading(NOW + 15 * i, unacked=backlog)) for i in range(120)]
    counts = [decision.replicas for _, _, _, decision in follow(policy, load, start)]
    assert len(set(counts[60:])) == 1
    if policy.target_wait_seconds is None and policy.target_backlog is not None:
        wanted = backlog / policy.target_backlog
        low, high = policy.min_replicas, policy.max_replicas
        busy = 1 if backlog else 0
        assert max(low, min(high, math.floor(wanted / 1.1), high)) <= counts[-1]
        assert counts[-1] <= max(low, busy, min(high, math.ceil(wanted / 0.9)))


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 200), st.lists(st.floats(0.95, 1.05), min_size=240, max_size=240))
def test_noise_does_not_make_it_flap(level: int, noise: list[float]) -> None:
    """An hour of a load that wanders by 5 %: once settled, it turns round twice at the most."""
    policy = Policy(0, 1000, 5.0)
    load = [
        (NOW + 15 * i, Reading(NOW + 15 * i, round(level * factor)))
        for i, factor in enumerate(noise)
    ]
    counts = [decision.replicas for _, _, _, decision in follow(policy, load, 0)]
    moves = [b - a for a, b in itertools.pairwise(counts[8:]) if b != a]
    turns = sum(1 for a, b in itertools.pairwise(moves) if (a > 0) != (b > 0))
    assert turns <= 2
    assert len(moves) <= 4
