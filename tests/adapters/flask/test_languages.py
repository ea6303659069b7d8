"""Errors in the language of the client."""

from flask import Flask

from resilience import Resilience
from resilience_flask import FlaskResilience


def test_errors_follow_the_client() -> None:
    """An error of the service is answered in the client's language, which is named, and caches are told it varies."""
    app, toolkit = Flask(__name__), Resilience()
    toolkit.catalog.define("ORDERS_V001", "No such article.", http_status=422, translations={"de": "Unbekannt."})
    FlaskResilience(app, toolkit)

    @app.get("/order")
    def order() -> str:
        raise toolkit.catalog.error("ORDERS_V001")

    answer = app.test_client().get("/order", headers={"Accept-Language": "de-CH, en;q=0.8"})
    assert (answer.status_code, answer.get_json()["message"]) == (422, "Unbekannt.")
    assert answer.headers["Content-Language"] == "de"
    assert {part.strip() for part in answer.headers["Vary"].split(",")} == {"Accept-Language", "Accept"}
