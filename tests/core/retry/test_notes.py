import dataclasses
import email.message
import urllib.error
from typing import Any

import pytest

from resilience import Fallback, Pipeline, Retry
from resilience.testing import ManualClock, RecordingListener


def notes(error: Exception, *retries: Retry) -> list[str]:
    """Return the notes of `error` after calls that only raise it."""
    clock = ManualClock()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        Pipeline("p", *retries, sleeper=clock).call(fail)
    return list(error.__notes__)


def retry(attempts: int = 3, **options: Any) -> Retry:
    return Retry(attempts, wait_jitter=0, clock=lambda: 0.0, **options)


def test_a_note_tells_each_attempt() -> None:
    """The note lists the attempts: number, error, message, and the wait that followed."""
    (note,) = notes(OSError("no route"), retry())
    assert note == (
        "p.retry: gave up after 3 attempts in 0.000 s (attempts)\n"
        "  1 OSError: no route, then waited 0.100 s\n"
        "  2 OSError: no route, then waited 0.200 s\n"
        "  3 OSError: no route"
    )


def test_a_long_history_keeps_its_beginning_and_its_end() -> None:
    """For any number of attempts, the note stays short and counts the attempts that it leaves out."""
    (note,) = notes(OSError("x" * 10_000 + "\n" * 50), retry(500))
    lines = note.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "...", "495", "496", "497", "498", "499", "500"]
    assert lines[3] == "  ... 492 more"
    assert len(note) < 1500
    assert max(map(len, lines)) < 160


def test_messages_are_one_line_each() -> None:
    """Line breaks in a message do not break the note."""
    (note,) = notes(OSError("a\n\n  b\tc"), retry(2))
    assert note.splitlines()[-1] == "  2 OSError: a b c"


def test_an_error_without_text_is_told_by_its_type() -> None:
    """An error whose text fails is listed by its type."""

    class Broken(OSError):  # noqa: N818 - a user's name
        def __str__(self) -> str:
            raise RuntimeError("no text")

    (note,) = notes(Broken(), retry(2))
    assert note.splitlines()[-1] == "  2 Broken"


def test_a_call_that_was_not_retried_leaves_no_note() -> None:
    """An error that stands at the first attempt is as it was."""
    error = OSError()
    with pytest.raises(OSError):
        Pipeline("p", Retry(on=KeyError)).call(_raise, error)
    assert not hasattr(error, "__notes__")


def _raise(error: Exception) -> None:
    raise error


def test_an_error_that_is_raised_again_and_again_keeps_one_note() -> None:
    """An error object made once for a module does not gather a note for each call; notes of others stay."""
    error = OSError("made once")
    error.add_note("look at the wiki")
    for _ in range(50):
        notes(error, retry(2))
    assert error.__notes__ == ["look at the wiki", *notes(error, retry(2))[1:]]
    assert len(error.__notes__) == 2
    notes(error, retry(4))
    assert len(error.__notes__) == 2
    assert "4 attempts" in error.__notes__[1]


@pytest.mark.filterwarnings("ignore:the retry .* runs inside")
def test_each_retry_leaves_its_own_note() -> None:
    """Nested retries each add a note; the note of the inner one lists its last attempts."""
    found = notes(OSError("x"), retry(2, name="outer"), retry(3, name="inner"))
    assert [note.split(" (")[0] for note in found] == [
        "inner: gave up after 3 attempts in 0.000 s",
        "outer: gave up after 2 attempts in 0.000 s",
    ]


def test_an_error_that_takes_no_note_is_raised_all_the_same() -> None:
    """An error that cannot be changed, or keeps something else under `__notes__`, is raised; others all take one."""

    @dataclasses.dataclass(frozen=True)
    class FrozenError(Exception):
        reason: str

    with pytest.raises(FrozenError, match="down"):
        Pipeline("p", retry(2), sleeper=ManualClock()).call(_raise, FrozenError("down"))
    assert len(notes(urllib.error.HTTPError("http://x", 503, "busy", email.message.Message(), None), retry(2))) == 1
    odd = OSError("odd")
    odd.__notes__ = 3  # type: ignore[assignment]  # anybody may
    with pytest.raises(OSError) as caught:
        Pipeline("p", retry(2), sleeper=ManualClock()).call(_raise, odd)
    assert caught.value is odd


def test_the_history_holds_no_error() -> None:
    """What is remembered of earlier attempts is text: an error would keep every frame it passed alive."""
    listener = RecordingListener()
    errors = iter([OSError("first"), KeyError("second")])
    pipeline = Pipeline("p", retry(2), sleeper=ManualClock(), listeners=[listener])
    with pytest.raises(KeyError) as caught:
        pipeline.call(lambda: _raise(next(errors)))
    assert "1 OSError: first" in caught.value.__notes__[0]
    assert caught.value.__context__ is None
    assert [event.facts.get("error").__class__ for event in listener.events] == [OSError, KeyError]


def test_an_error_behind_a_fallback_is_told_too() -> None:
    """A retry outside a fallback goes on by the dependency's own error, and notes it; the caller gets the value."""
    error, calls = OSError("x"), []

    def fail() -> int:
        calls.append(1)
        raise error

    assert Pipeline("p", retry(3), Fallback(7), sleeper=ManualClock()).call(fail) == 7
    assert len(calls) == 3
    assert "gave up after 3 attempts" in error.__notes__[0]
