"""The per-boot launch file: how the kiosk's own page gets its session without a token in a URL.

`launch.html` in the state directory is readable by the agent's account alone (and by `launch_group`, the browser's). In
a set-group-ID directory it belongs to that directory's group: the agent's unit may change no owners, see systemd/.
The kiosk's browser is started with this file. Its script goes to `http://127.0.0.1:<port>/#launch=<code>`; the page
there takes the code out of the address bar and trades it at POST /auth/launch for the session cookie.

Why a fragment: it never leaves the browser, so it is in no request, log or Referer; the browser's command line names
the file only; and the POST comes from our own page with our own Origin, so that `null`, which is what a form in a
`file://` page would send, is never accepted on any route. The code is no token: it works once, and its use writes a
new one, so that a browser that is started again finds a fresh file. It dies with the process.
"""

from __future__ import annotations

import hmac
import json
import os
import shutil
import stat
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import ClassVar

from agent.domain.errors import ConfigError, KioskError
from agent.domain.ids import Randomness

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Kiosk</title></head>
<body><script>location.replace({url})</script></body></html>
"""


class LaunchCodeInvalid(KioskError):
    code: ClassVar[str] = "launch_code_invalid"
    http_status: ClassVar[int] = 401


class LaunchFile:
    def __init__(self, path: Path, group: str | None, url: str, randomness: Randomness) -> None:
        self._path = path
        self._group = group
        self._url = url
        self._randomness = randomness
        self._code = ""

    def renew(self) -> None:
        """Make a new code and put it into the file, whole or not at all. Raises `ConfigError` when it cannot."""
        self._code = urlsafe_b64encode(self._randomness(32)).decode().rstrip("=")
        fresh = self._path.with_name(f".{self._path.name}.new")
        page = _PAGE.format(url=json.dumps(f"{self._url}#launch={self._code}"))
        try:
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                inherited = bool(self._path.parent.stat().st_mode & stat.S_ISGID)
                if self._group is not None and not inherited:
                    shutil.chown(fresh, group=self._group)
                if self._group is not None or inherited:
                    fresh.chmod(0o640)
                file.write(page)
            fresh.replace(self._path)
        except (OSError, LookupError) as error:
            raise ConfigError(f"api.launch_file: cannot write {self._path}: {error}") from error

    def redeem(self, code: str) -> None:
        """Use the code up, at once. Raises `LaunchCodeInvalid`; `renew` follows a success."""
        right = hmac.compare_digest(code.encode(), self._code.encode())
        if not right or not self._code:
            raise LaunchCodeInvalid("This launch code is used up or not ours; open the launch file again.")
        self._code = ""

    def remove(self) -> None:
        self._code = ""
        self._path.unlink(missing_ok=True)
