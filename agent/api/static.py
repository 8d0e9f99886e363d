"""The kiosk's own pages, from one folder, at `/`: only files of known kinds, read anew at every request."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from agent.api.security import refuse
from agent.domain.errors import NotFound

PAGES = Path(__file__).parent / "pages"
INDEX = "index.html"
_KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".mp3": "audio/mpeg",
}


class Pages:
    """The router's default: what no route took. The folder is listed for every request, so that a path is only ever
    compared with names that are there and never joined to it."""

    def __init__(self, folder: Path = PAGES) -> None:
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await refuse(NotFound("There is no such WebSocket."), scope, receive, send)
            return
        if scope["path"].startswith("/api/"):
            raise HTTPException(404)
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405)
        await self._file(scope["path"].removeprefix("/") or INDEX)(scope, receive, send)

    def _file(self, name: str) -> Response:
        files = {path.relative_to(self._folder).as_posix(): path for path in self._folder.rglob("*") if path.is_file()}
        found = files.get(name)
        if found is None or found.suffix not in _KINDS:
            raise HTTPException(404)
        return FileResponse(found, media_type=_KINDS[found.suffix])
