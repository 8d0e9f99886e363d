"""What a web page, a rebound name or a careless program can send to 127.0.0.1: a corpus of raw requests (PROOFS C1).

Every request carries the cookie of a logged-in victim, although SameSite=Strict would keep it from most of them: the
gate has to hold alone. `{port}` stands for the port of the kiosk.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

PAY = "/api/v1/cash/pay"
SECRET = "/api/v1/cash/secret"
BODY = json.dumps({"amount_minor": 100})
OWN = "http://127.0.0.1:{port}"
HOST = "127.0.0.1:{port}"
JSON = "application/json"
EVIL = "http://evil.example"
TYPED = ("Content-Type", "application/json")
LOGOUT = "/api/v1/auth/logout"

Headers = list[tuple[str, str]]
UPGRADE: Headers = [
    *(("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


@dataclass(frozen=True)
class Attack:
    """One request. `raw` replaces everything; `cookie` False leaves the victim's session away."""

    name: str
    method: str = "GET"
    path: str = SECRET
    headers: Headers = field(default_factory=list)
    body: str = ""
    cookie: bool = True
    length: bool = True

    def wire(self, port: int, cookie: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        if self.cookie:
            lines.append(f"Cookie: kiosk_session={cookie}")
        if self.body and self.length:
            lines.append(f"Content-Length: {len(self.body.encode())}")
        text = "\r\n".join([*lines, "Connection: close", "", ""]) + self.body
        return text.replace("{port}", str(port)).replace("{cookie}", cookie).encode("utf-8", "surrogateescape")


FOREIGN = [
    *("http://evil.example", "https://evil.example", "http://evil.example:{port}", "null", "file://", ""),
    *("http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:{port}", "http://localhost:{port}"),
    *("http://127.0.0.1:{port}.evil.example", "http://evil.example/127.0.0.1:{port}", "http://127.0.0.1:{port}/"),
    *("http://[::1]:{port}", "http://[::ffff:127.0.0.1]:{port}", "http://0.0.0.0:{port}", "http://2130706433:{port}"),
    *("http://user@127.0.0.1:{port}", "chrome-extension://abcdefgh", "http://127.0.0.1:{port} http://evil.example"),
    *("http://127.0.0.1:{port}, http://evil.example", "*", "http://127.0.0.1.nip.io:{port}", "moz-extension://x"),
]
REBOUND = [
    *("evil.example:{port}", "evil.example", "0.0.0.0:{port}", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}"),
    *("127.0.0.1", "127.0.0.1:1", "localhost.:{port}", "127.1:{port}", "2130706433:{port}", "0x7f000001:{port}"),
    *("127.0.0.1:{port}.evil.example", "evil@127.0.0.1:{port}", "127.0.0.1:{port}:80", "", "127.0.0.1:0{port}"),
    *("kiosk.local:{port}", "127.0.0.1:{port},evil.example"),
]
SUBRESOURCES = [("no-cors", each) for each in ("image", "script", "style", "video", "font", "object", "embed", "empty")]
FRAMES = [("navigate", each) for each in ("document", "iframe", "frame")] + [
    ("cors", "empty"),
    ("websocket", "websocket"),
]
SIMPLE = [
    *("text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
    *("text/plain, application/json", "application/json; charset=utf-16", "application/json-patch+json", ""),
    *("application/vnd.api+json", "text/json"),
]


def corpus() -> Iterator[Attack]:
    yield from _foreign_origin()
    yield from _rebound_host()
    yield from _subresources()
    yield from _simple_requests()
    yield from _preflights()
    yield from _websockets()
    yield from _tricks()
    yield from _framing()


def _post(name: str, headers: Headers, **more: object) -> Attack:
    return Attack(name, "POST", more.pop("path", PAY), headers, str(more.pop("body", BODY)), **more)  # type: ignore[arg-type]


def _foreign_origin() -> Iterator[Attack]:
    ask = ("Access-Control-Request-Method", "DELETE")
    for origin in FOREIGN:
        headers, who = [("Host", HOST), ("Origin", origin)], origin or "an empty origin"
        yield _post(f"POST from {who}", [*headers, TYPED])
        yield Attack(f"GET from {who}", headers=headers)
        yield Attack(f"DELETE from {who}", "DELETE", PAY, headers)
        yield Attack(f"preflight from {who}", "OPTIONS", PAY, [*headers, ask])
    yield _post("POST without Origin", [("Host", HOST), TYPED])
    yield _post("POST with two Origins", [("Host", HOST), ("Origin", OWN), ("Origin", EVIL), TYPED])
    yield _post("POST from our origin, cross-site", _from_site("cross-site", "cors", "empty", Origin=OWN))
    yield _post(
        "POST from another port, same-site", _from_site("same-site", "cors", "empty", Origin="http://127.0.0.1:1")
    )
    for method in ("PUT", "PATCH"):
        headers = [("Host", HOST), ("Origin", EVIL), TYPED]
        yield Attack(f"{method} from evil.example", method, PAY, headers, BODY)


def _rebound_host() -> Iterator[Attack]:
    for host in REBOUND:
        headers = [("Host", host), ("Origin", f"http://{host}")]
        yield _post(f"rebound POST to {host}", [*headers, TYPED])
        yield Attack(f"rebound GET to {host}", headers=[("Host", host), ("Sec-Fetch-Site", "same-origin")])
        yield Attack(f"rebound WebSocket to {host}", path="/api/v1/ws", headers=[*headers, *UPGRADE])
    yield Attack("GET without Host", headers=[])
    yield Attack("GET with two Hosts", headers=[("Host", HOST), ("Host", "evil.example")])
    for name in ("X-Forwarded-Host", "X-Host", "Forwarded"):
        yield Attack(f"rebound GET with {name}", headers=[("Host", "evil.example"), (name, HOST)])
    yield Attack(
        "rebound GET in absolute form", path="http://127.0.0.1:{port}" + SECRET, headers=[("Host", "evil.example")]
    )
    yield Attack("proxied GET from elsewhere", headers=[("Host", HOST), ("X-Forwarded-For", "203.0.113.9")])


def _from_site(site: str, mode: str, dest: str, **more: str) -> Headers:
    base = [("Host", HOST), ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]
    return [*base, *more.items(), *([TYPED] if more else [])]


def _subresources() -> Iterator[Attack]:
    for site in ("cross-site", "same-site"):
        for mode, dest in (*SUBRESOURCES, *FRAMES):
            yield Attack(f"{site} {dest} ({mode})", headers=_from_site(site, mode, dest))
    for path in ("/metrics", "/api/v1/openapi.json", "/api/v1/auth/me", "/api/v1/events", "/api/v1/system/health"):
        yield Attack(f"cross-site script of {path}", path=path, headers=_from_site("cross-site", "no-cors", "script"))
        yield Attack(f"rebound {path}", path=path, headers=[("Host", "evil.example:{port}")])
    yield Attack("our page in a frame", path="/", headers=_from_site("cross-site", "navigate", "iframe"))
    yield Attack(
        "our script in a foreign page", path="/kiosk.js", headers=_from_site("cross-site", "no-cors", "script")
    )


def _simple_requests() -> Iterator[Attack]:
    for kind in SIMPLE:
        for origin in (EVIL, "null", OWN):
            headers = [("Host", HOST), ("Origin", origin), *([("Content-Type", kind)] if kind else [])]
            yield _post(f"{kind or 'untyped'} POST from {origin}", headers)
    form = "amount_minor=100"
    headers = _from_site("cross-site", "navigate", "document", Origin="null")
    yield _post("form POST by navigation", [*headers[:-1], ("Content-Type", SIMPLE[2])], body=form)
    yield _post("empty POST (logout)", [("Host", HOST), ("Origin", EVIL)], path=LOGOUT, body="")
    yield _post("beacon (logout)", _from_site("cross-site", "no-cors", "empty")[:-1], path=LOGOUT, body="")


def _preflights() -> Iterator[Attack]:
    for origin in (EVIL, "null", "http://127.0.0.1:1", OWN):
        for wanted in ("content-type", "authorization", "x-anything"):
            ask = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", wanted)]
            yield Attack(f"preflight {wanted} of {origin}", "OPTIONS", PAY, [("Host", HOST), ("Origin", origin), *ask])
    private = [("Access-Control-Request-Private-Network", "true"), ("Access-Control-Request-Method", "GET")]
    headers = [("Host", HOST), ("Origin", EVIL), *private]
    yield Attack("private network preflight", "OPTIONS", SECRET, headers)
    yield Attack(
        "preflight of a rebound host", "OPTIONS", PAY, [("Host", "evil"), ("Origin", "http://evil"), *private[1:]]
    )


def _websockets() -> Iterator[Attack]:
    for origin in (EVIL, "null", "http://127.0.0.1:1", "http://localhost:{port}", ""):
        headers = [("Host", HOST), *([("Origin", origin)] if origin else []), *UPGRADE]
        yield Attack(
            f"WebSocket from {origin or 'nowhere'}", path="/api/v1/ws", headers=[*headers, ("Connection", "Upgrade")]
        )
    token = [("Host", HOST), ("Origin", EVIL), ("Sec-WebSocket-Protocol", "{cookie}"), *UPGRADE]
    yield Attack("WebSocket with a token as protocol", path="/api/v1/ws", headers=token)


def _tricks() -> Iterator[Attack]:
    own = [("Host", HOST), ("Origin", OWN)]
    for name in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        yield Attack(f"GET that calls itself POST ({name})", path=PAY, headers=[*own, (name, "POST")])
    yield Attack("GET with _method", path=f"{PAY}?_method=POST&amount_minor=100", headers=own)
    for method in ("GET", "HEAD"):
        yield Attack(f"{method} with effects", method, PAY, own)
        yield Attack(f"{method} logout", method, LOGOUT, own)
    for method in ("TRACE", "CONNECT", "PROPFIND", "post", "FOO"):
        yield Attack(f"{method} request", method, PAY, own)
    for name in ("token", "access_token", "ACCESS_TOKEN", "session"):
        yield Attack(f"{name} in the URL", path=f"{SECRET}?{name}={{cookie}}", headers=[("Host", HOST)], cookie=False)
        yield Attack(f"{name} in the URL beside a cookie", path=f"{SECRET}?{name}=x", headers=[("Host", HOST)])
    bearer = [("Host", HOST), TYPED, ("Authorization", "Bearer {cookie}")]
    yield _post("bearer beside a cookie, no Origin", bearer)
    yield _post("bearer with fetch metadata, no Origin", [*bearer, ("Sec-Fetch-Site", "cross-site")], cookie=False)
    yield _post("bearer from evil.example", [*bearer, ("Origin", EVIL)], cookie=False)
    basic = [("Host", HOST), TYPED, ("Authorization", "Basic {cookie}")]
    yield _post("basic instead of bearer", basic, cookie=False)
    yield _post(
        "peer credentials in a header",
        [("Host", HOST), ("kiosk.peer", '{"uid":0}'), TYPED],
        cookie=False,
    )


def _framing() -> Iterator[Attack]:
    evil = [("Host", HOST), ("Origin", EVIL), TYPED]
    own = [("Host", HOST), ("Origin", OWN), TYPED]
    chunked = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    inside = f"POST {PAY} HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {OWN}\r\nContent-Length: 0\r\n\r\n"
    for name, headers in (("evil", evil), ("own", own)):
        both = [*headers, ("Transfer-Encoding", "chunked"), ("Content-Length", "4")]
        yield _post(f"TE and CL ({name})", both, body=chunked, length=False)
        two = [*headers, ("Content-Length", "1"), ("Content-Length", "19")]
        yield _post(f"two lengths ({name})", two, length=False)
        yield _post(f"TE xchunked ({name})", [*headers, ("Transfer-Encoding", "xchunked")], body=chunked, length=False)
        twice = [*headers, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")]
        yield _post(f"TE twice ({name})", twice, body=chunked, length=False)
        yield _post(f"negative length ({name})", [*headers, ("Content-Length", "-1")], length=False)
        yield _post(f"compressed ({name})", [*headers, ("Content-Encoding", "gzip")])
        yield _post(f"too large ({name})", headers, body=json.dumps({"amount_minor": 1, "x": "y" * 70_000}))
        pieces = "".join(f"4000\r\n{'y' * 0x4000}\r\n" for _ in range(5)) + "0\r\n\r\n"
        yield _post(
            f"too large in chunks ({name})", [*headers, ("Transfer-Encoding", "chunked")], body=pieces, length=False
        )
    yield Attack("GET with a request as its body", path=SECRET, headers=own[:2], body=inside)
    yield Attack("header injection in the path", path=f"/x%0d%0aOrigin:%20{OWN}", headers=evil[:2])
    yield Attack("folded Origin", headers=[("Host", HOST), ("Origin", "http://evil.example\r\n " + OWN)])
    yield Attack("Origin with a space before the colon", headers=[("Host", HOST), ("Origin ", OWN), ("Origin", "null")])
