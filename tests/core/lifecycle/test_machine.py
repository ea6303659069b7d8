"""What the machine remembers of one life."""

from resilience.lifecycle._machine import (
    DRAINING,
    READY,
    STARTING,
    STOPPED,
    HookProgress,
    LifecycleMachine,
    Shutdown,
)


def test_a_life_begins_with_nothing_done_towards_its_end() -> None:
    """No hook has run, and the service has not begun to wait for its requests."""
    shutdown = Shutdown()
    assert shutdown.drain_hooks is HookProgress.NOT_RUN
    assert shutdown.stop_hooks is HookProgress.NOT_RUN
    assert shutdown.is_observed is False


def test_the_first_caller_runs_the_stop_hooks() -> None:
    """Of all callers that stop the process, one runs the hooks; meanwhile they count as running."""
    shutdown = Shutdown()
    assert shutdown.begin_stop_hooks() is True
    assert shutdown.stop_hooks is HookProgress.RUNNING
    assert shutdown.begin_stop_hooks() is False
    shutdown.stop_hooks = HookProgress.DONE
    assert shutdown.begin_stop_hooks() is False
    assert shutdown.stop_hooks is HookProgress.DONE


def test_only_a_drain_runs_the_drain_hooks() -> None:
    """Neither readiness nor a stop without a drain runs them."""
    drained, stopped = LifecycleMachine(0.0), LifecycleMachine(0.0)
    for machine in (drained, stopped):
        machine.become(READY, 1.0)
        assert machine.shutdown.drain_hooks is HookProgress.NOT_RUN
    drained.become(DRAINING, 2.0)
    assert drained.shutdown.drain_hooks is HookProgress.RUNNING
    stopped.become(STOPPED, 2.0)
    assert stopped.shutdown.drain_hooks is HookProgress.NOT_RUN


def test_a_new_life_has_a_shutdown_of_its_own() -> None:
    """A process that becomes ready after its end has everything to do again; within a life nothing is forgotten."""
    machine = LifecycleMachine(0.0)
    first = machine.shutdown
    for state in (READY, DRAINING, STOPPED):
        machine.become(state, 1.0)
        assert machine.shutdown is first
    machine.become(READY, 2.0)
    assert machine.shutdown is not first
    assert machine.shutdown.drain_hooks is HookProgress.NOT_RUN


def test_a_drain_that_is_taken_back_leaves_nothing_behind() -> None:
    """The process is ready from that moment on, with nothing done towards its end; no other state changes."""
    machine = LifecycleMachine(0.0)
    machine.take_drain_back(1.0)
    assert (machine.state, machine.since) == (STARTING, 0.0)
    machine.become(READY, 2.0)
    machine.take_drain_back(3.0)
    assert (machine.state, machine.since) == (READY, 2.0)
    machine.become(DRAINING, 4.0)
    drained = machine.shutdown
    machine.take_drain_back(5.0)
    assert (machine.state, machine.since) == (READY, 5.0)
    assert machine.shutdown is not drained
    assert machine.shutdown.drain_hooks is HookProgress.NOT_RUN
