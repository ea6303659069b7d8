"""The commands of `python -m resilience`, one file each: `configure` declares its arguments, `run` answers."""

__all__: tuple[str, ...] = ()
