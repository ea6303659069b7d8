"""Records the demo as an animated SVG: `python docs/_site/record.py`.

`python -m resilience demo` runs in a real pseudo-terminal. pyte emulates the terminal, and rich draws its screens. The
picture loads no font from elsewhere.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
from pyte import graphics
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "images" / "demo.svg"
_COLUMNS, _LINES = 100, 60
_EVERY = 2.0
"""Seconds between two frames."""
_SHOWN = 1.5
"""Seconds for which a frame of the picture is shown; the last one is shown longer."""
_LAST = 6.0
_DIM = "8a8f98"
_NAMES = {"brown": "yellow", "default": None}
"""pyte's names of colours that are not rich's."""


def screens() -> Iterator[pyte.Screen]:
    """Run the demo, and yield its screen from time to time, and at the end."""
    graphics.FG[2] = _DIM  # pyte knows no dim text
    screen = pyte.Screen(_COLUMNS, _LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "resilience", "demo"], stdin=theirs, stdout=theirs, env=environment
    )
    os.close(theirs)
    due = time.monotonic() + _EVERY
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                stream.feed(os.read(ours, 65536))
            except OSError:  # the demo has closed the terminal
                break
        if time.monotonic() >= due:
            due += _EVERY
            yield screen
    if process.wait():
        raise SystemExit(f"the demo ended with status {process.returncode}")
    yield screen


def picture_of(screen: pyte.Screen) -> list[Text]:
    """Return the lines of the live picture: without the servers above it and the summary below it."""
    lines = [_line(screen, number) for number in range(_LINES)]
    first = next((number for number, line in enumerate(lines) if "healthy ──" in line.plain), None)
    if first is None:
        return []
    last = next((number for number in range(first, _LINES) if "summary of all" in lines[number].plain), _LINES)
    found = lines[first:last]
    while found and not found[-1].plain.strip():
        found.pop()
    return found


def _line(screen: pyte.Screen, number: int) -> Text:
    row, line = screen.buffer[number], Text(no_wrap=True)
    for style, cells in itertools.groupby((row[column] for column in range(_COLUMNS)), _style):
        line.append("".join(cell.data for cell in cells), style)
    return line


def _style(cell: Char) -> Style:
    return Style(color=_colour(cell.fg), bgcolor=_colour(cell.bg), bold=cell.bold, reverse=cell.reverse)


def _colour(name: str) -> str | None:
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return _NAMES.get(name, re.sub(r"^bright", "bright_", name))


_PARTS = ("styles", "backgrounds", "matrix", "lines", "chrome", "width", "height")
_PLACE = ("terminal_x", "terminal_y", "char_height", "line_height")
_FORMAT = "\0".join(f"{{{part}}}" for part in (*_PARTS, *_PLACE))


def animated(frames: list[list[Text]]) -> str:
    """Return the SVG that shows the frames one after the other; readers who want no motion see the last one."""
    height = max(map(len, frames))
    seconds = _SHOWN * (len(frames) - 1) + _LAST
    styles, groups, parts = list[str](), list[str](), dict[str, str]()
    for number, frame in enumerate(frames):
        name, is_last = f"f{number}", number == len(frames) - 1
        parts = _parts(frame, height, name)
        begin, end = (100 * moment * _SHOWN / seconds for moment in (number, number + 1))
        styles.append(parts["styles"])
        styles.append(_keyframes(name, begin, None if is_last else end))
        styles.append(f"#{name}{{animation:{name} {seconds:g}s step-end infinite}}")
        groups.append(f"<defs>{parts['lines']}</defs>")
        groups.append(f'<g id="{name}" opacity="{int(is_last)}">{parts["backgrounds"]}{parts["matrix"]}</g>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {parts["width"]} {parts["height"]}" role="img">',
            "<title>The demo in a terminal: a shop with and without the toolkit, while its provider fails</title>",
            f"<style>text{{font:{parts['char_height']}px/{parts['line_height']}px {_FONTS}}}",
            *styles,
            "@media (prefers-reduced-motion:reduce){g{animation:none!important}}</style>",
            parts["chrome"],
            f'<g transform="translate({parts["terminal_x"]}, {parts["terminal_y"]})">',
            *groups,
            "</g></svg>",
            "",
        ]
    )


def _parts(frame: list[Text], height: int, name: str) -> dict[str, str]:
    """Return the parts of a picture that rich draws; `name` is in the names of its styles."""
    console = Console(record=True, width=_COLUMNS, height=height, file=io.StringIO(), color_system="truecolor")
    for line in [*frame, *[Text()] * (height - len(frame))]:
        console.print(line)
    drawn = console.export_svg(title="python -m resilience demo", code_format=_FORMAT, unique_id=name)
    return dict(zip((*_PARTS, *_PLACE), drawn.split("\0"), strict=True))


_FONTS = "ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def _keyframes(name: str, begin: float, end: float | None) -> str:
    """Return the rule that shows a frame from `begin` to `end`, in percent; None is the end of the picture."""
    before = "" if begin == 0 else "0%{opacity:0}"
    after = "" if end is None else f"{end:.2f}%{{opacity:0}}"
    return f"@keyframes {name}{{{before}{begin:.2f}%{{opacity:1}}{after}}}"


def main() -> None:
    """Record the demo and write the picture."""
    frames: list[list[Text]] = []
    for screen in screens():
        if (frame := picture_of(screen)) and frame != frames[-1:]:
            frames.append(frame)
    PICTURE.write_text(animated(frames))


if __name__ == "__main__":
    main()
