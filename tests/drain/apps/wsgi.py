"""What the WSGI servers of the matrix serve."""

from __future__ import annotations

import time

from flask import Flask

from resilience_flask import FlaskResilience

app = Flask(__name__)
FlaskResilience(app)
app.extensions["resilience"].lifecycle.on_stop(lambda: print("stop hook", flush=True), name="said")
print("loaded", flush=True)


@app.get("/work")
def work() -> str:
    """Take a moment."""
    time.sleep(0.02)
    return "done"


@app.get("/slow/<seconds>")
def slow(seconds: str) -> str:
    """Take longer."""
    print("slow one begins", flush=True)
    time.sleep(float(seconds))
    return "done"
