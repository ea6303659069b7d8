"""One of several processes that share a retry budget; it reads its orders from its input, a word a line."""

from __future__ import annotations

import sys

from resilience import RetryBudget
from resilience.fleet import Fleet
from resilience.redis import RedisConnection


def main(url: str) -> None:
    """Enter calls, spend retries, end retries or show the lease, as the lines of the input say."""
    connection = RedisConnection.from_url(url)
    budget = RetryBudget("shared", ratio=0.25, minimum=4, shared=connection)
    for line in sys.stdin:
        order, number = line.split()
        answer: object = "done"
        if order == "enter":
            for _ in range(int(number)):
                budget.enter()
        elif order == "spend":
            answer = sum(budget.spend(retrying=False) for _ in range(int(number)))
        elif order == "end":
            for _ in range(int(number)):
                budget.leave(retrying=True)
        else:
            answer = f"{budget.snapshot()['lease']} {Fleet.of(connection).instances}"
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
