"""The signal dispositions of a process that a user starts at a terminal, however the tests are started."""

from __future__ import annotations

import signal

__all__ = ("SENT", "take_signals")

SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD)
"""The signals that tests send, or wait for."""


def take_signals() -> None:
    """Let each signal of `SENT` have its usual effect in this process, and in each process that it starts.

    A shell ignores SIGINT in its background jobs. Some CI runners and supervisors ignore or block more signals. A new
    process inherits both. SIGHUP stays as it is: `nohup` ignores it for the whole run, and no test sends it.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SENT)
    for number in SENT:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
