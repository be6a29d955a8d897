"""A process inside the 0.8.1 environment that runs drivers on request; importing it takes seconds.

Standard input: one JSON object per line, `{"driver": module, "arguments": {...}}`. Standard
output: one line for each, `{"value": what the driver's `run` returned}` or `{"error": traceback}`.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from contextlib import redirect_stdout
from typing import Any

from pydantic import BaseModel


def main() -> None:
    replies = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        # What a driver prints must not get between the replies.
        with redirect_stdout(sys.stderr):
            reply = answer(request["driver"], request["arguments"])
        print(json.dumps(reply, default=plain), file=replies, flush=True)


def answer(driver: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": importlib.import_module(driver).run(**arguments)}
    except Exception:  # noqa: BLE001 - the traceback is the reply, the caller fails with it
        return {"error": traceback.format_exc()}


def plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else repr(value)


main()
