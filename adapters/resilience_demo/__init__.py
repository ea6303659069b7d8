"""The toolkit at work: a shop under load, and a payment provider that fails and recovers.

With `--all` the demo runs three services that call each other. It kills an instance and their journal, and drains one.
Everything is real: servers under uvicorn on free loopback ports, traffic over HTTP, Valkey if it is installed.
Needs the `demo` extra: `pip install "resilience-plugins[demo]"`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from resilience_demo import _needs
from resilience_demo._script import FULL, SHORT
from resilience_demo._stage import View

__all__ = ("main",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status.

    The status is 0 if every promise was kept, 1 if one was broken, and 128 + n if signal n ended the demo.

    Raises:
        PluginError: a package that the demo needs is not installed.
    """
    arguments = _parser().parse_args(argv)
    if arguments.all:
        return _chain(is_short=arguments.fast)
    _needs.check()
    # Imports asyncio, httpx2 and rich, which `check` has found.
    from resilience_demo._play_aio import play  # noqa: PLC0415 - see above

    return play(SHORT if arguments.fast else FULL, _view(is_plain=arguments.fast))


def _chain(*, is_short: bool) -> int:
    _needs.check(_needs.CHAIN)
    from resilience_demo.chain import FULL, SHORT, ChainLines, play  # noqa: PLC0415 - imports what `check` has found

    return play(SHORT if is_short else FULL, ChainLines())


def _view(*, is_plain: bool) -> View:
    """Return the live screen if the terminal has colours and room for it, otherwise plain lines."""
    from resilience_demo._lines import Lines  # noqa: PLC0415 - see above
    from resilience_demo._screen import HEIGHT, WIDTH, Screen  # noqa: PLC0415 - see above

    size = shutil.get_terminal_size()
    if is_plain or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return Lines()
    if size.columns < WIDTH or size.lines < HEIGHT:
        print(f"A terminal of {WIDTH} x {HEIGHT} shows this live; here it comes as lines.")  # noqa: T201 - for the user
        return Lines()
    return Screen()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("resilience demo", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="under 20 s, in plain lines, for scripts")
    parser.add_argument("--all", action="store_true", help="three services: kill one, drain one, and lose no order")
    return parser
