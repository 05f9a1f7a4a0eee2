"""Explains to operators why a broker cannot be used, and what to change. The messages contain hosts and users."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from aiormq.exceptions import InvalidFrameError, ProbableAuthenticationError, ProtocolSyntaxError

from shared.errors import sentence

PORTS = {"amqp": 5672, "amqps": 5671}


def explained(error: BaseException, url: str) -> str:
    """Returns what a failure to connect to `url` means, without its password."""
    parts = urlsplit(url)
    where = f"{parts.hostname or 'localhost'}:{parts.port or PORTS.get(parts.scheme, 5672)}"
    user, vhost = unquote(parts.username or "guest"), unquote(parts.path[1:]) or "/"
    for cause in causes(error):
        match cause:
            case socket.gaierror():
                return f"the host {parts.hostname} is not known"
            case ConnectionRefusedError():
                return f"nothing listens at {where}"
            case ssl.SSLCertVerificationError():
                return f"the certificate of {where} is not trusted ({cause.verify_message})"
            case ssl.SSLError():
                return f"{where} does not use TLS, or uses another version: amqps: needs RabbitMQ's TLS port"
            case ProbableAuthenticationError():
                return f"{where} refuses the user {user!r} or its password"
            case InvalidFrameError() if "Connection.Close" in str(cause):
                return f"{where} has no virtual host {vhost!r}, or the user {user!r} may not use it"
            case TimeoutError() | ProtocolSyntaxError() | ConnectionResetError() | EOFError():
                return (
                    f"{where} does not answer like RabbitMQ: check that this is its AMQP port, and whether it requires "
                    "TLS (amqps:)"
                )
            case _:
                continue
    return f"{where}: {sentence(error)}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and its causes: the driver wraps the errors of the system."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


class Refused(ConnectionError):
    """The broker answers, but refuses the user, the password or the virtual host of the settings."""


REFUSALS = (ProbableAuthenticationError, InvalidFrameError)


def unreachable(error: BaseException, url: str) -> OSError:
    """Returns the same error with an explanation. A TimeoutError stays one."""
    if isinstance(error, TimeoutError):
        return TimeoutError(explained(error, url))
    return (Refused if isinstance(error, REFUSALS) else ConnectionError)(explained(error, url))
