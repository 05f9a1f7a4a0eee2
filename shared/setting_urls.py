"""Checks URLs in settings, and formats them for messages. No message contains a password, or any part of a URL that
could not be parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

EXAMPLES: Mapping[str, str] = {
    "amqp_url": "amqp://USER:PASSWORD@HOST:5672/VHOST",
    "redis_url": "redis://USER:PASSWORD@HOST:6379/0",
    "engine_url": "http://HOST:PORT/v1",
    "files_url": "s3://BUCKET/PREFIX",
    "files_endpoint": "http://HOST:PORT",
}
ESCAPED = {character: f"%{ord(character):02X}" for character in "%/#?@:,"}
WITHOUT_HOST = frozenset({"unix"})


def fault_of_url(name: str, url: str, schemes: Sequence[str]) -> str | None:
    """Returns what is wrong with the URL of the setting `name`, as one clause, or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return f"is not a URL like {EXAMPLES[name]}{hint(url)}"
    if parts.scheme not in schemes:
        return f"must begin with {' or '.join(f'{scheme}:' for scheme in schemes)}"
    if parts.scheme not in WITHOUT_HOST and not is_whole(parts):
        return f"is not a URL like {EXAMPLES[name]}{hint(url)}"
    if name == "redis_url" and parts.scheme not in WITHOUT_HOST and not is_database(parts.path):
        return f"must end with the number of a database, as in {EXAMPLES[name]}"
    return None


def is_whole(parts: SplitResult) -> bool:
    """Whether the URL has a host and was parsed as intended. A special character in a password that is not escaped ends
    the host part early, so that the rest of the URL contains '@' or a fragment.
    """
    behind = f"{parts.path}{parts.query}"
    return bool(parts.hostname) and not parts.fragment and "@" not in behind and parts.netloc.count("@") <= 1


def is_database(path: str) -> bool:
    return path in ("", "/") or path[1:].isdigit()


def hint(url: str) -> str:
    if "@" not in url:
        return ""
    written = ", ".join(f"{character} as {code}" for character, code in ESCAPED.items())
    return f"; in a user name or password, write {written}"


def without_password(url: str) -> str:
    """Returns the URL without its password."""
    scheme, mark, rest = url.partition("://")
    before, at, host = rest.rpartition("@")
    user, _, _ = before.partition(":")
    return f"{scheme}{mark}{user}{at}{host}"
