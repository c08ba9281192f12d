"""Who may ask what: hosts, origins, the token, and how long a request may be.

A page of another site that is open in the same browser must reach nothing here:

    Host        names this server, so that no foreign name that resolves to this address is served (DNS
                rebinding)
    Origin      of whatever changes something is this server's own; so is what browsers say of the fetching
                site (Sec-Fetch-Site), for reading too
    token       asked for wherever the server listens to more than this machine; it comes once in the
                address, then in a cookie that no other site's request carries, or in an Authorization header,
                as a bearer's or as a password beside any name
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everseg.errors import UserError
from everseg.serve.limits import Limits

COOKIE = "everseg_token"
LOCAL = ("localhost", "127.0.0.1", "::1")
SHORTEST = 16
"""Characters of a token."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def is_local(host: str) -> bool:
    """Whether nothing but this machine reaches a server that listens there."""
    return host in LOCAL or host.startswith("127.")


def checked_token(host: str, given: str) -> str:
    """The token of a server that listens on `host`: the given one, a new one where it needs one, or "".

    Raises:
        UserError: the given one is too short or cannot stand in an address.
    """
    if not given:
        return "" if is_local(host) else secrets.token_urlsafe(24)
    if len(given) < SHORTEST or not all(c.isascii() and (c.isalnum() or c in "-_") for c in given):
        raise UserError(
            f"the token is too weak; give at least {SHORTEST} letters, digits, '-' or '_', or leave it "
            "out and everseg will make one"
        )
    return given


class Guard:
    """Around the application: refuses what must not be asked, and adds headers to every answer.

    host: where the server listens. names: further names that it is reached by. token: "" for none.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, names: Iterable[str] = (), token: str = "", limits: Limits
    ) -> None:
        self.app, self.token, self.limits = app, token, limits
        self.names = {name.lower() for name in (*LOCAL, host, *names)}
        self.anywhere = host in ("0.0.0.0", "::", "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in named]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, sending)
            return
        upload = scope["path"] == "/api/images" and scope["method"] == "POST"
        most = self.limits.upload + 2**16 if upload else self.limits.body
        if int(Headers(scope=scope).get("content-length") or 0) > most:
            await _no(413, f"the request is longer than {most} bytes")(scope, receive, sending)
            return
        await self.app(scope, _counted(receive, most), sending)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            return _no(400, "Content-Length is not a number")
        host = headers.get("host", "")
        if not self._known(_name(host)):
            return _no(
                421, "this name is not the server's; open the address that it printed, or give it --name"
            )
        origin = headers.get("origin")
        safe = scope["method"] in ("GET", "HEAD", "OPTIONS")
        if origin is not None and origin.partition("://")[2] != host and not (safe and origin == "null"):
            return _no(403, "the request comes from another site")
        site = headers.get("sec-fetch-site", "none")
        page = scope["path"] == "/" or scope["path"].startswith("/page/")
        top = safe and page and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not top:
            return _no(403, "the request comes from another site")
        return self._without_token(scope, headers)

    def _known(self, name: str) -> bool:
        if name in self.names:
            return True
        if not self.anywhere:
            return False
        try:  # An address cannot be rebound; a name can.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        if not self.token:
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in asked if name == "token"), None)
        if given is not None and scope["path"] == "/" and _same(given, self.token):
            rest = urlencode([(name, value) for name, value in asked if name != "token"])
            answer = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
            return answer
        shown = headers.get("authorization", "")
        bearer = _password(shown) if shown.startswith("Basic ") else shown.removeprefix("Bearer ")
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        cookie = next((value for name, _, value in cookies if name == COOKIE), "")
        if _same(bearer, self.token) or _same(cookie, self.token):
            return None
        return _no(401, "this server asks for its token; open the whole address that it printed")


def _password(basic: str) -> str:
    """The password in a Basic Authorization header; "" where it cannot be read."""
    try:
        named = base64.b64decode(basic.removeprefix("Basic "), validate=True).decode()
    except ValueError:
        return ""
    return named.partition(":")[2]


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(errors="replace"), token.encode())


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _no(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status)


def _counted(receive: Receive, most: int) -> Receive:
    """Ends a body that is longer than it may be, whatever its header says."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > most else message

    return counting
