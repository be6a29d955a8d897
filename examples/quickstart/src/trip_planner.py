"""Plans a trip with a human in the loop: it asks for the destination, and waits for the answer."""

from workflows import Context, Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class TripPlanner(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent:
        days = int(ev.get("days", 3))
        await ctx.store.set("days", days)
        return InputRequiredEvent(prefix=f"Where do you want to go for {days} days? ")

    @step
    async def plan(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent:
        days = await ctx.store.get("days")
        return StopEvent(result=f"{days} days in {ev.response}: booked")


trip_planner = TripPlanner()
