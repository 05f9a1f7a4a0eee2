"""Protects a server without keys against web pages. Any page can send requests to a server on its visitor's machine,
under a host name of the page's own (DNS rebinding) or across origins; without keys they look like the user's requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.auth.keyring import Keyring
from producer.http.edge.middleware import Cors
from producer.http.errors import error_response
from shared.errors import BackendUnavailable, IgniteError, PermissionDenied, UnsupportedMediaType

JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json", re.IGNORECASE)
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", re.IGNORECASE)
SETTING = "add the name to the setting 'no_auth_hosts', or create a key with 'ignite keys create --name NAME'."


class LocalNames:
    """The host names that requests to a server without keys may have in Host and Origin."""

    def __init__(self, more: Iterable[str], *, any_address: bool) -> None:
        """`more`: names in addition to this machine's. `any_address`: every IP address is allowed as well, because the
        server listens beyond loopback. A page cannot make a browser send an address as Host unless it came from there.
        """
        self._more = frozenset(more)
        self._any_address = any_address

    def refusal(self, headers: Headers, method: str, *, upload: bool) -> IgniteError | None:
        """Returns the error for a request that is not allowed, else None. `upload`: its route takes a form."""
        for host in headers.getlist("host"):
            if not self.takes_host(host):
                return PermissionDenied(
                    f"Without keys this server accepts only this machine as Host, not {host[:100]!r}: {SETTING}",
                    code="host_not_allowed",
                )
        for origin in headers.getlist("origin"):
            if not self.takes_origin(origin):
                return PermissionDenied(
                    f"Without keys this server refuses requests from web pages of {origin[:100]!r}: {SETTING}",
                    code="origin_not_allowed",
                )
        if not self._any_address and any(not is_loopback(each) for each in forwarded_for(headers)):
            return PermissionDenied(
                "Without keys this server refuses requests that a proxy forwards for another machine: create a key "
                "with 'ignite keys create --name NAME'.",
                code="proxy_not_allowed",
            )
        if "origin" not in headers:
            return cross_site_refusal(headers, method)
        return None if upload else form_refusal(headers, method)

    def takes_host(self, host: str) -> bool:
        """Whether `host`, a name or an address with or without a port, is allowed."""
        found = HOST.fullmatch(host)
        return found is not None and self._takes(found[1].lower())

    def takes_origin(self, origin: str) -> bool:
        scheme, separator, rest = origin.partition("://")
        return bool(separator) and scheme.lower() in ("http", "https") and self.takes_host(rest)

    def _takes(self, name: str) -> bool:
        name = name.removesuffix(".")
        if name in self._more or name == "localhost" or name.endswith(".localhost"):
            return True
        return is_loopback(name) or (self._any_address and is_address(name))


def is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    return is_address(name) and ip_address(name.strip("[]")).is_loopback


def forwarded_for(headers: Headers) -> list[str]:
    """Returns the client addresses in X-Forwarded-For."""
    return [each.strip() for value in headers.getlist("x-forwarded-for") for each in value.split(",") if each.strip()]


def cross_site_refusal(headers: Headers, method: str) -> IgniteError | None:
    """Returns the error for a cross-site request without an Origin, such as an image, a script, or a form of an old
    browser. Following a link is allowed, because only the user sees the answer.
    """
    if headers.get("sec-fetch-site") != "cross-site":
        return None
    followed = (method, headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("GET", "navigate", "document")
    if followed:
        return None
    return PermissionDenied(
        f"Without keys this server refuses requests from web pages of other sites: {SETTING}",
        code="origin_not_allowed",
    )


def form_refusal(headers: Headers, method: str) -> IgniteError | None:
    """Returns the error for a body that is not JSON: browsers send those to other origins without a preflight."""
    if method in ("GET", "HEAD", "OPTIONS", "DELETE") or is_empty(headers):
        return None
    content_type = headers.get("content-type", "").partition(";")[0].strip()
    if JSON_TYPE.fullmatch(content_type):
        return None
    return UnsupportedMediaType(
        f"Send Content-Type: application/json: a web page's request may not have the type {content_type!r}."
    )


def is_empty(headers: Headers) -> bool:
    return "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"


class LocalCors(Cors):
    """CORS for a server without keys: allows pages of this machine only."""

    def __init__(self, app: ASGIApp, names: LocalNames, expose_headers: Iterable[str]) -> None:
        super().__init__(app, (), ["*"], ["*"], expose_headers=tuple(expose_headers))
        self._names = names

    def is_allowed_origin(self, origin: str) -> bool:
        return self._names.takes_origin(origin)


class BrowserGuard:
    """Applies CORS for all origins where keys protect the server, and `LocalNames` where there are none."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        names: LocalNames,
        *,
        expose_headers: Iterable[str],
        uploads: frozenset[str],
    ) -> None:
        """`uploads`: paths that take forms."""
        self._keyring = keyring
        self._names = names
        self._uploads = uploads
        self._keyed: CORSMiddleware = Cors(app, ["*"], ["*"], ["*"], expose_headers=tuple(expose_headers))
        self._keyless: CORSMiddleware = LocalCors(app, names, expose_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._keyed(scope, receive, send)
            return
        try:
            keyless = await self._keyring.is_keyless()
        except BackendUnavailable:
            keyless = True  # The stricter of the two; authentication answers 503.
        if not keyless:
            await self._keyed(scope, receive, send)
            return
        refused = self._names.refusal(Headers(scope=scope), scope["method"], upload=scope["path"] in self._uploads)
        answer = self._keyless if refused is None else error_response(refused)
        await answer(scope, receive, send)
