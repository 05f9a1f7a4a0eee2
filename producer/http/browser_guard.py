"""What a server without keys takes from browsers. Any web page can send requests to a server on its visitor's machine,
under a name of its own (DNS rebinding) or across origins, and without keys nothing else tells it from the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.auth.keyring import Keyring
from producer.http.errors import error_response
from producer.http.middleware import Cors
from shared.errors import BackendUnavailable, IgniteError, PermissionDenied, UnsupportedMediaType

JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json", re.IGNORECASE)
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", re.IGNORECASE)
SETTING = "'no_auth_hosts' adds names, and with keys every name and every origin is taken."


class LocalNames:
    """The host names by which a server without keys may be called, and whose pages may call it."""

    def __init__(self, more: Iterable[str], *, any_address: bool) -> None:
        """`any_address`: the server is on other addresses than loopback, and may be called by those. A page cannot make
        its visitor's browser send an address as the host name unless that is where the page comes from.
        """
        self._more = frozenset(more)
        self._any_address = any_address

    def refusal(self, headers: Headers, method: str, *, upload: bool) -> IgniteError | None:
        """Why a request is not served. `upload`: its route takes a form."""
        for host in headers.getlist("host"):
            if not self.takes_host(host):
                return PermissionDenied(
                    f"Without keys this server is called by a name of this machine only, not by {host[:100]!r}: "
                    + SETTING,
                    code="host_not_allowed",
                )
        for origin in headers.getlist("origin"):
            if not self.takes_origin(origin):
                return PermissionDenied(
                    f"Without keys this server takes no calls from web pages of {origin[:100]!r}: {SETTING}",
                    code="origin_not_allowed",
                )
        if not self._any_address and any(not is_loopback(each) for each in forwarded_for(headers)):
            return PermissionDenied(
                "Without keys this server takes no calls that a proxy passed on for another machine: make a key with "
                "'ignite keys create --name NAME'.",
                code="proxy_not_allowed",
            )
        if "origin" not in headers:
            return cross_site_refusal(headers, method)
        return None if upload else form_refusal(headers, method)

    def takes_host(self, host: str) -> bool:
        """`host`: a name or an address, with a port or without."""
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
    """The clients for whom proxies say that they pass the request on."""
    return [each.strip() for value in headers.getlist("x-forwarded-for") for each in value.split(",") if each.strip()]


def cross_site_refusal(headers: Headers, method: str) -> IgniteError | None:
    """What a browser sends for another site without an Origin: an image, a script, a form of an old browser. Following
    a link is allowed, because it shows the answer to the user alone.
    """
    if headers.get("sec-fetch-site") != "cross-site":
        return None
    followed = (method, headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("GET", "navigate", "document")
    if followed:
        return None
    return PermissionDenied(
        f"Without keys this server takes no calls from web pages of other sites: {SETTING}", code="origin_not_allowed"
    )


def form_refusal(headers: Headers, method: str) -> IgniteError | None:
    """A browser asks first (preflight) before it sends JSON as such to another origin, but not for other types."""
    if method in ("GET", "HEAD", "OPTIONS", "DELETE") or is_empty(headers):
        return None
    content_type = headers.get("content-type", "").partition(";")[0].strip()
    if JSON_TYPE.fullmatch(content_type):
        return None
    return UnsupportedMediaType(
        f"A web page's request must be sent as application/json, not as {content_type or 'nothing in particular'!r}."
    )


def is_empty(headers: Headers) -> bool:
    return "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"


class LocalCors(Cors):
    """CORS for a server without keys: its own machine's pages only."""

    def __init__(self, app: ASGIApp, names: LocalNames, expose_headers: Iterable[str]) -> None:
        super().__init__(app, (), ["*"], ["*"], expose_headers=tuple(expose_headers))
        self._names = names

    def is_allowed_origin(self, origin: str) -> bool:
        return self._names.takes_origin(origin)


class BrowserGuard:
    """Chooses between CORS for all origins, which keys protect, and what a server without keys allows."""

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
