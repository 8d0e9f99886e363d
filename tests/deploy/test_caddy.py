"""The way in lets through what it should: the office, signed uploads with their Host, Grafana; and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sync.central.settings import S3Settings
from sync.envelope import COMPRESSED_BYTES_MAX
from tests.deploy import stack

CADDYFILE = Path(__file__).resolve().parents[2] / "config/caddy/Caddyfile"
TEXT = CADDYFILE.read_text("utf-8")
SIZES = {"KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def blocks(text: str) -> dict[str, str]:
    """Head → body of each block at the top."""
    found: dict[str, str] = {}
    head, depth = "", 0
    body: list[str] = []
    for line in (each.split("#")[0].rstrip() for each in text.splitlines()):
        opens, closes = line.endswith("{") or line == "{", line.strip() == "}"
        if depth == 0 and opens:
            head, body = line[:-1].strip(), []
        elif depth == 1 and closes:
            found[head] = "\n".join(body)
        elif depth:
            body.append(line.strip())
        depth += opens - closes
        assert depth >= 0
    assert depth == 0
    return found


SITES = blocks(TEXT)
OFFICE, STORE, GRAFANA = (SITES[f"{{${name}}}"] for name in ("CENTRAL_HOST", "S3_HOST", "GRAFANA_HOST"))


def limits(site: str) -> list[int]:
    return [int(number) * SIZES[unit] for number, unit in re.findall(r"max_size (\d+)(\w+)", site)]


def test_every_site_has_tls_headers_and_a_log_without_secrets() -> None:
    assert set(SITES) == {"", "(public)", "{$CENTRAL_HOST}", "{$S3_HOST}", "{$GRAFANA_HOST}"}
    for site in (OFFICE, STORE, GRAFANA):
        assert site.strip().startswith("import public")
    public = SITES["(public)"]
    assert "tls {$CADDY_TLS}" in public
    for header in ("Strict-Transport-Security", "X-Content-Type-Options nosniff", "Referrer-Policy"):
        assert header in public
    for secret in ("X-Amz-Signature", "X-Amz-Credential", "Authorization delete", "Cookie delete"):
        assert secret in public, "would stand in the log"


def test_variables_come_from_the_compose_file() -> None:
    given = stack.read(stack.FILLED)["services"]["caddy"]["environment"]
    assert set(re.findall(r"\{\$(\w+)\}", TEXT)) == set(given)


def test_only_a_signed_put_into_the_bucket_reaches_the_object_store() -> None:
    matcher = re.search(r"@upload \{\n(.*?)\n\}", STORE, re.S)
    assert matcher and matcher[1].splitlines() == ["method PUT", "path /{$S3_BUCKET}/*", "query X-Amz-Signature=*"]
    assert STORE.count("reverse_proxy") == 1
    assert STORE.index("handle @upload {") < STORE.index("reverse_proxy") < STORE.index("handle {")
    assert STORE.rstrip().endswith("handle {\nrespond 403\n}")


def test_the_host_reaches_the_object_store_as_it_was_signed() -> None:
    """SigV4 signs the Host; caddy keeps it unless told otherwise."""
    assert "header_up" not in STORE and "rewrite" not in STORE and "uri " not in STORE


def test_sizes_are_those_of_the_office() -> None:
    assert limits(STORE) == [2 << 30]
    assert limits(STORE)[0] >= S3Settings().object_bytes_max
    assert COMPRESSED_BYTES_MAX < limits(OFFICE)[-1] <= 2 * COMPRESSED_BYTES_MAX, "too large is for the office to say"


def test_metrics_stay_inside_and_telemetry_needs_the_token() -> None:
    assert "@inner path /metrics /metrics/*" in OFFICE and "respond @inner 404" in OFFICE
    assert len(re.findall(r"header Authorization \"Bearer \{file\./run/secrets/log_push_token\}\"", OFFICE)) == 2
    assert "handle /telemetry/* {\nrespond 401\n}" in OFFICE
    caddy = yaml.safe_load(stack.COMPOSE.read_text("utf-8"))["services"]["caddy"]
    assert caddy["secrets"] == ["log_push_token"]


def test_event_streams_are_not_held_back() -> None:
    last = OFFICE[OFFICE.rindex("reverse_proxy central:8000") :]
    assert "flush_interval -1" in last
    assert "read_timeout" not in last and "write_timeout" not in last


@pytest.mark.proof
def test_caddy_agrees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not in CI: the package is 40 MB."""
    caddy = shutil.which("caddy") or pytest.fail("this proof needs: apt-get install caddy")
    for name, value in (*stack.FILLED.items(), ("S3_BUCKET", "kiosk"), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    path = str(CADDYFILE)
    for command in (["validate", "--config", path, "--adapter", "caddyfile"], ["fmt", "--diff", path]):
        done = subprocess.run([caddy, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
