"""The simulation that docs/scaling.md shows, on a load that takes no time: its own rules hold."""

from __future__ import annotations

import pytest

from benchmarks.scaling.controllers import Hpa, Keda, Operator
from benchmarks.scaling.loads import Load
from benchmarks.scaling.measure import measure
from benchmarks.scaling.report import BEGIN, END, section, write
from benchmarks.scaling.simulation import Simulation

BURST = Load("small", "A burst", 60.0, bursts=((10.0, 200),), tail=600.0, marks=(10,))


@pytest.mark.parametrize("controller", [Operator, Hpa, Keda])
def test_each_task_is_done_once_and_the_queue_drains(controller: type) -> None:
    trace = Simulation(BURST, controller(), start=1).run()
    found = measure("any", BURST, trace)
    assert trace.finished == len(trace.waits) == 200
    assert trace.queue[-1][1] == 0
    assert found.drain is not None and 2 < found.drain < 120
    assert found.peak > 4


def test_zero_is_reached_a_window_after_the_last_task_and_by_hpa_never() -> None:
    """The operator after a minute, KEDA after five; HPA keeps one."""

    def zero(controller: Operator | Hpa | Keda) -> float | None:
        trace = Simulation(BURST, controller, start=1).run()
        return next((at for at, count in trace.changes if at > 10 and count == 0), None)

    operator, keda = zero(Operator()), zero(Keda())
    assert operator is not None and keda is not None
    assert operator < 150 < keda
    assert zero(Hpa()) is None


def test_the_same_load_gives_the_same_trace() -> None:
    first, second = (Simulation(BURST, Operator(), start=0).run() for _ in range(2))
    assert (first.changes, first.waits) == (second.changes, second.waits)


def test_the_page_is_written_between_its_marks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    page = tmp_path / "scaling.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    trace = Simulation(BURST, Operator(), start=1).run()
    write(page, section(BURST, [measure("operator", BURST, trace)], "x.svg"))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text and "| operator |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no line"):
        write(page, "x")
