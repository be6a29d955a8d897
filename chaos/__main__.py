"""``python -m chaos``: every pair, every blow, and the table."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos.blows import KILLS, NETWORK, NETWORK_PAUSE, STOPS, Blow
from chaos.disk import full_disk
from chaos.feats import (
    answers_while_workers_die,
    one_long_session,
    parked_tasks_cost_nothing,
)
from chaos.field import field_on
from chaos.report import PAGE, Results, feats_table, table, write
from chaos.rounds import one_round
from chaos.servers import PAIRS, Pair, pair

TASKS = 500


SESSION_PAIR = "rabbitmq+redis"


def main() -> int:
    """0 when everything held, 1 when something did not."""
    options = _parser().parse_args()
    results = Results(options.results)
    asyncio.run(_all(options, results))
    print("\n" + table(results.rows) + "\n" + feats_table(results.feats))
    if options.write:
        write(results.rows, results.feats)
    held = [row.held for row in results.rows] + [feat.held for feat in results.feats]
    return 0 if held and all(held) else 1


async def _all(options: argparse.Namespace, results: Results) -> None:
    await play(options, results)
    await perform(options, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--pair", action="append", choices=PAIRS, help="default: all")
    parser.add_argument("--only", default="", help="rounds whose name matches this expression")
    parser.add_argument("--tasks", type=int, default=TASKS, help="per round")
    parser.add_argument("--pause", type=float, help="seconds of a stop or cut, for a short run")
    parser.add_argument(
        "--results", type=Path, help="a file that keeps what was seen, for a run in parts"
    )
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, which stay")
    return parser


async def play(options: argparse.Namespace, results: Results) -> None:
    """Every blow on every pair."""
    for name in options.pair or PAIRS:
        async with pair(name) as servers:
            for blows, proxied, pause in (
                (KILLS, False, 0.0), (STOPS, False, 60.0), (NETWORK, True, NETWORK_PAUSE)
            ):  # fmt: skip
                chosen = [blow for blow in blows if re.search(options.only, blow.name)]
                if chosen:
                    await _rounds(servers, chosen, proxied, pause, options, results)


async def perform(options: argparse.Namespace, results: Results) -> None:
    """What is not a blow."""

    def wanted(what: str) -> bool:
        return re.search(options.only, what) is not None

    for name in options.pair or PAIRS:
        if wanted("questions"):
            async with pair(name) as servers:
                for feat in await answers_while_workers_die(servers):
                    results.add(feat)
        if wanted("parked"):
            async with pair(name) as servers:
                results.add(await parked_tasks_cost_nothing(servers))
    if wanted("session"):
        async with pair(SESSION_PAIR) as servers:
            results.add(await one_long_session(servers))
    if wanted("disk"):
        results.add(await full_disk())


async def _rounds(
    servers: Pair, blows: Sequence[Blow], proxied: bool, pause: float,
    options: argparse.Namespace, results: Results,
) -> None:  # fmt: skip
    async with field_on(servers, options.keep, proxied, options.pause or pause) as field:
        for blow in blows:
            results.add(await one_round(field, blow, options.tasks))


if __name__ == "__main__":
    sys.exit(main())
