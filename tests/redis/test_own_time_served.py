"""A real uvicorn whose handlers keep its loop now and then."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_process import RedisProcess, free_port
from server_process import started

pytestmark = [pytest.mark.redis, pytest.mark.servers]
SOURCE = """
    import os
    import time

    from resilience import TokenBucket
    from resilience.ratelimit import RedisStore
    from resilience.redis import RedisConnection

    connection = RedisConnection.from_url(os.environ["SERVER"], outage="deny")
    limiter = TokenBucket("1000000/second", store=RedisStore(connection))


    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        decision = await limiter.aacquire(scope["path"])
        if scope["path"] == "/slow":
            time.sleep(0.08)
        await send({"type": "http.response.start", "status": 200 if decision else 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""


def test_blocking_handlers_refuse_no_request(redis_server: RedisProcess, tmp_path: Path) -> None:
    """With `deny`, a handler that keeps the loop for longer than the bound has no other request refused."""
    port = free_port()
    arguments = ["-m", "uvicorn", "app:app", "--port", str(port), "--lifespan", "off", "--log-level", "warning"]
    with started(tmp_path, SOURCE, arguments, port=port, environment={"SERVER": redis_server.url}) as server:
        server.answers("/", 200)
        with ThreadPoolExecutor(5) as clients:
            asked = [clients.submit(server.ask, f"/{number}" if number % 5 else "/slow") for number in range(200)]
            statuses = [each.result()[0] for each in asked]
    assert statuses.count(429) == 0, statuses
