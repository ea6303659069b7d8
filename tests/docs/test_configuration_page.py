import re
from pathlib import Path

from resilience.config._schema import POLICIES

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_page_lists_the_policies_in_the_order_they_stand_in() -> None:
    """The recommended order in words is the one that pipelines are built in."""
    sentence = re.search(r"the first one outermost: ([^.]*)\.", PAGE)
    assert sentence is not None
    assert re.findall(r"`(\w+)`", sentence[1]) == [policy.name for policy in POLICIES]
