"""Why a broker cannot be used, in words that say what to change. For operators: they name hosts and users."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from aiormq.exceptions import InvalidFrameError, ProbableAuthenticationError, ProtocolSyntaxError

from shared.errors import sentence

PORTS = {"amqp": 5672, "amqps": 5671}


def explained(error: BaseException, url: str) -> str:
    """What a failure to connect to `url` means. Never repeats its password."""
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
                return f"{where} speaks no TLS, or another version of it: amqps: is for RabbitMQ's TLS port"
            case ProbableAuthenticationError():
                return f"{where} refuses the user {user!r} or its password"
            case InvalidFrameError() if "Connection.Close" in str(cause):
                return f"{where} has no virtual host {vhost!r}, or the user {user!r} may not use it"
            case TimeoutError() | ProtocolSyntaxError() | ConnectionResetError() | EOFError():
                return (
                    f"{where} does not answer as RabbitMQ does: see that this is its AMQP port, and whether it wants "
                    "TLS (amqps:)"
                )
            case _:
                continue
    return f"{where}: {sentence(error)}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of: the driver wraps what the system said."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


class Refused(ConnectionError):
    """The broker is there and will refuse us for as long as the settings are as they are."""


REFUSALS = (ProbableAuthenticationError, InvalidFrameError)


def unreachable(error: BaseException, url: str) -> OSError:
    """The same failure in words of ours, for logs and operators. Silence stays a TimeoutError."""
    if isinstance(error, TimeoutError):
        return TimeoutError(explained(error, url))
    return (Refused if isinstance(error, REFUSALS) else ConnectionError)(explained(error, url))
