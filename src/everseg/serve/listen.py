"""The socket that a server listens on, and the address that people open."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from everseg.errors import UserError


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound before anything is loaded, so that a taken port is refused at once.

    Raises:
        UserError: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)  # From now on no other server can have the port; a browser waits for this one.
    except (OSError, UnicodeError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host"
        ) from error
    try:
        yield bound
    finally:
        bound.close()


def address(bound: socket.socket, host: str, token: str) -> str:
    """What people open in a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{bound.getsockname()[1]}/" + (f"?token={token}" if token else "")
