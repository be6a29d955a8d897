"""A service written against `llama_index.core.workflow`, as most LlamaDeploy users write them."""

from __future__ import annotations

from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step


class LlamaIndexEcho(Workflow):
    @step
    async def echo(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"llama-index: {ev.get('message', '')}")


echo = LlamaIndexEcho(timeout=None)
