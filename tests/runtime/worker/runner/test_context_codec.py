"""Contexts as text: allowed types, signatures, versions."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from pydantic import BaseModel
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, StartEvent, StopEvent

from llamadeploy.signing import KeyRing
from llamadeploy.worker.context_codec import AllowedTypes, ContextCodec, UnknownTypeError
from llamadeploy.worker.contract import Failed, Succeeded


class Money(BaseModel):
    cents: int


class Wallet(BaseModel):
    money: list[Money] = []


class Typed(Workflow):
    @step
    async def add(self, ctx: Context[Wallet], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as wallet:
            wallet.money.append(Money(cents=1))
        return StopEvent(result=len((await ctx.store.get_state()).money))


class Keeps(Workflow):
    @step
    async def keep(self, ctx: Context, ev: StartEvent) -> StopEvent:
        before = await ctx.store.get("value", default=None)
        if ev.get("value") is not None:
            await ctx.store.set("value", VALUES[ev.value])
        return StopEvent(result=repr(before))


class Note(Event):
    text: str


VALUES: dict[str, Any] = {
    "model": Money(cents=3),
    "event": Note(text="x"),
    "nested": {"list": [Money(cents=1), {"deep": Money(cents=2)}]},
    "plain": {"a": [1, 2.5, None, True, "ü"]},
}


async def test_a_typed_state_goes_from_run_to_run(kit) -> None:
    runner = kit.runner(Typed())
    context = None
    for expected in "12":
        outcome, _ = await kit.run(runner, context=context)
        assert outcome.result == expected
        context = outcome.context


@pytest.mark.parametrize("name", VALUES)
async def test_models_that_nothing_declares_are_kept_in_the_state(kit, name) -> None:
    runner = kit.runner(Keeps())
    first, _ = await kit.run(runner, {"value": name})
    second, _ = await kit.run(runner, context=first.context)
    assert second.result == repr(VALUES[name])


async def test_a_model_that_could_not_be_read_back_is_not_written(kit, monkeypatch) -> None:
    class Local(BaseModel):
        x: int = 1

    monkeypatch.setitem(VALUES, "local", Local())
    outcome, _ = await kit.run(kit.runner(Keeps()), {"value": "local"})
    assert isinstance(outcome, Failed)
    assert "key value" in outcome.result
    assert "Local" in outcome.result


@pytest.mark.rule(16)
async def test_a_context_of_a_rotated_key_is_read(kit) -> None:
    first, _ = await kit.run(kit.runner(Typed()))
    kit.keyring = kit.keyring.rotated()
    second, _ = await kit.run(kit.runner(Typed()), context=first.context)
    assert second.result == "2"
    kit.keyring = KeyRing.generate()
    third, _ = await kit.run(kit.runner(Typed()), context=first.context)
    assert third.data["error"]["type"] == "SignatureError"


def resigned(kit, signed: str, **changes: Any) -> str:
    payload = json.loads(kit.keyring.verify("context", signed))
    payload.update(changes)
    return kit.keyring.sign("context", json.dumps(payload))


async def test_a_context_of_a_newer_release_is_refused_and_unknown_fields_are_not(kit) -> None:
    runner = kit.runner(Typed())
    first, _ = await kit.run(runner)
    newer, _ = await kit.run(runner, context=resigned(kit, first.context, version=99))
    assert isinstance(newer, Failed)
    assert "version 99" in newer.result
    more, _ = await kit.run(runner, context=resigned(kit, first.context, extra={"a": 1}))
    assert isinstance(more, Succeeded)
    for context in (kit.keyring.sign("context", text) for text in ("", "[]", "{}", '{"x": 1}')):
        broken, _ = await kit.run(runner, context=context)
        assert isinstance(broken, Failed)
        assert not broken.retryable


@pytest.mark.parametrize("name", ["antigravity.Fly", "os.system", "subprocess.Popen", "nothing"])
@pytest.mark.defect(21)
@pytest.mark.rule(16)
async def test_a_type_that_is_not_allowed_is_never_imported(kit, name) -> None:
    runner = kit.runner(Keeps())
    first, _ = await kit.run(runner, {"value": "model"})
    payload = json.loads(kit.keyring.verify("context", first.context))
    text = json.dumps(payload).replace(f"{__name__}.Money", name)
    assert name in text
    outcome, _ = await kit.run(runner, context=kit.keyring.sign("context", text))
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert f"the type {name!r} is neither declared" in outcome.result
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "workflows.events.HumanResponseEvent",
        "workflows.HumanResponseEvent",
        "llama_index.core.workflow.events.HumanResponseEvent",
        "llama_index.core.workflow.HumanResponseEvent",
    ],
)
def test_the_names_that_framework_types_have_had(name) -> None:
    assert AllowedTypes().resolve_class(name) is HumanResponseEvent


@pytest.mark.parametrize("name", ["workflows.events.json", "", ".", "a", "sys.", "builtins.int"])
def test_names_that_lead_nowhere(name) -> None:
    with pytest.raises(UnknownTypeError):
        AllowedTypes().resolve_class(name)


@pytest.mark.defect(21)
@pytest.mark.rule(16)
def test_pickle_is_never_read(kit) -> None:
    from workflows.context.serializers import PickleSerializer

    codec = ContextCodec(Keeps(serializer=PickleSerializer()), kit.keyring)
    assert not isinstance(codec.serializer, PickleSerializer)
    assert isinstance(codec.new_context()._face._serializer, AllowedTypes)
