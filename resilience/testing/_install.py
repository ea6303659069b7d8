"""Prepares the process for `manual_clock` and `policies_off`."""

from __future__ import annotations

from resilience.testing._off_switch import OFF_SWITCH
from resilience.testing._process_clock import PROCESS_CLOCK

__all__ = ("install",)


def install() -> None:
    """Make the clock and the policies of this process subject to `manual_clock` and `policies_off`.

    The pytest plugin calls this when pytest starts. Elsewhere, call it before the first import of a module that makes
    policies. Each call through a policy takes up to 0.3 us longer from then on, so do not call it in a service.

    Example:
        The first lines of a `unittest` suite::

            from resilience.testing import install

            install()
    """
    PROCESS_CLOCK.install()
    OFF_SWITCH.install()
