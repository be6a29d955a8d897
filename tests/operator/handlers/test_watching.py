"""kopf's private functions that are wrapped: this fails when they move."""

from __future__ import annotations

from importlib.metadata import version

import kopf
import pytest
from kopf._cogs.clients import watching as private
from kopf._core.reactor import queueing

from llamadeploy_operator.cluster.kinds import APP, DEPLOYMENT
from llamadeploy_operator.handlers import events, watching


def test_the_seam_is_where_it_was() -> None:
    assert version("kopf") == "1.45.2", "look at handlers/watching.py with every new kopf"
    watching.check_seam()
    # The wrappers work only while the callers look the functions up in this module.
    assert queueing.watching is private
    assert "continuous_watch" in private.infinite_watch.__code__.co_names
    assert "watch_objs" in private.continuous_watch.__code__.co_names
    assert private.Bookmark.LISTED


def test_a_moved_seam_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch_objs(*, other: int) -> None:
        yield other  # type: ignore[misc]

    monkeypatch.setattr(private, "watch_objs", watch_objs)
    with pytest.raises(RuntimeError, match=r"watch_objs\(\) takes other parameters"):
        watching.check_seam()
    monkeypatch.delattr(private, "watch_objs")
    with pytest.raises(RuntimeError, match=r"no asynchronous generator watch_objs\(\)"):
        watching.check_seam()


def test_only_event_handlers_are_registered() -> None:
    registry = kopf.OperatorRegistry()
    events.register(registry, [DEPLOYMENT, APP], lambda kind, body: None)
    assert len(registry._watching.get_all_handlers()) == 2
    # Each of these would make kopf write finalizers or annotations.
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._webhooks.get_all_handlers()


def test_children_are_selected_by_label_and_custom_resources_are_not() -> None:
    settings = kopf.OperatorSettings()
    events.configure(settings, [DEPLOYMENT, APP])
    selectors = settings.watching.label_selectors
    assert list(selectors.values()) == ["app.kubernetes.io/managed-by=llamadeploy-operator"]
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
