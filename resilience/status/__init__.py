"""The state of a running process, for its own user: an opt-in Unix socket, and the functions that read it."""

from resilience.status._options import StatusOptions
from resilience.status._process import PROCESS
from resilience.status._socket import StatusSocket, read_status, sockets_of

__all__ = ("PROCESS", "StatusOptions", "StatusSocket", "read_status", "sockets_of")
