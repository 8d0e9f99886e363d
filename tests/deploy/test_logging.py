"""A line that the office or the agent really writes arrives in Loki with its time, level and trace id.

Alloy and Promtail are not run here: their pipelines are read from the files and applied by tests/deploy/pipelines.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.pipelines import Block, Entry, alloy, run, stages

ROOT = Path(__file__).resolve().parents[2]
CENTRAL = alloy((ROOT / "config/alloy/central.alloy").read_text("utf-8"))
KIOSK = alloy((ROOT / "config/alloy/kiosk.alloy").read_text("utf-8"))
PROMTAIL = yaml.safe_load((ROOT / "config/promtail/promtail.yml").read_text("utf-8"))["scrape_configs"][0]
TRACE = "0199c1d2a7b07f3e8c11aa22bb33cc44"
OFFICE = f"""
from loguru import logger
from sync.central.logs import configure
from sync.central.settings import LoggingSettings
configure(LoggingSettings())
with logger.contextualize(trace_id="{TRACE}"):
    logger.warning("ingest refused: gap")
"""
AGENT = f"""
from loguru import logger
from agent.logs import LoggingSettings, configure
configure(LoggingSettings(format="json"))
with logger.contextualize(trace_id="{TRACE}"):
    logger.bind(device="validator", seq=17).warning("the note came back")
"""
CADDY = '{"level":"info","ts":1795379557.07,"logger":"http.log.access.log0","msg":"handled request","status":200}'


def written_by(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def office() -> str:
    return written_by(OFFICE)


@pytest.fixture(scope="module")
def agent() -> str:
    return written_by(AGENT)


def block(tree: Block, name: str, label: str) -> Block:
    (found,) = [each for each in tree.blocks if (each.name, each.label) == (name, label)]
    return found


def docker(line: str, service: str | None = "central") -> Entry:
    """As Docker's json-file driver writes it with the option `labels` of docker-compose.yml."""
    attrs = {"attrs": {"com.docker.compose.service": service}} if service else {}
    wrapped = {"log": f"{line}\n", "stream": "stderr", **attrs, "time": "2026-11-22T20:55:22.784123456Z"}
    return Entry(json.dumps(wrapped), {"filename": "/var/lib/docker/containers/abc/abc-json.log"})


PIPELINES: dict[str, tuple[list[dict[str, Any]], dict[str, str]]] = {
    "alloy": (stages(block(CENTRAL, "loki.process", "containers")), {}),
    "promtail": (PROMTAIL["pipeline_stages"], {"origin": PROMTAIL["static_configs"][0]["labels"]["origin"]}),
}


@pytest.fixture(params=PIPELINES)
def collected(request: pytest.FixtureRequest) -> Any:
    pipeline, labels = PIPELINES[request.param]

    def collect(entry: Entry) -> Entry:
        entry.labels |= labels
        return run(pipeline, entry)

    return collect


def test_the_office_line_keeps_its_time_level_and_trace(collected: Any, office: str) -> None:
    entry = collected(docker(office))
    assert entry.line == f"{office}\n"
    assert entry.labels == {"service": "central", "stream": "stderr", "level": "warning", "origin": "centre"}
    assert entry.metadata == {"trace_id": TRACE, "logger": "__main__"}
    assert entry.at == "2026-11-22T20:55:22.784123456Z"


def test_caddy_and_lines_that_are_no_json_get_through(collected: Any) -> None:
    entry = collected(docker(CADDY, "caddy"))
    assert (entry.labels["level"], entry.metadata) == ("info", {"status": "200"})
    plain = collected(docker("database system is ready to accept connections", "postgres"))
    assert plain.line == "database system is ready to accept connections\n"
    assert plain.labels == {"service": "postgres", "stream": "stderr", "origin": "centre"}
    broken = collected(docker("Traceback (most recent call last):", "central"))
    assert broken.line and "level" not in broken.labels


def test_containers_of_somebody_else_are_left_out(collected: Any) -> None:
    assert collected(docker("secret of another stack", None)).line is None


def test_the_agents_line_keeps_its_own_time_level_and_trace(agent: str) -> None:
    entry = run(stages(block(KIOSK, "loki.process", "agent")), Entry(agent, {}))
    assert entry.at == json.loads(agent)["ts"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d", entry.at), "RFC 3339"
    assert entry.labels == {"level": "warning"}
    assert entry.metadata == {"trace_id": TRACE, "device": "validator", "seq": "17"}


def test_what_a_kiosk_sends_cannot_pass_for_the_office() -> None:
    received = Entry("x", {"kiosk": "lobby-1", "level": "error", "origin": "centre", "service": "central"})
    entry = run(stages(block(CENTRAL, "loki.process", "kiosks")), received)
    assert entry.labels == {"kiosk": "lobby-1", "level": "error", "origin": "kiosk"}
    rules = block(CENTRAL, "prometheus.relabel", "kiosks").blocks
    keep = next(rule.attributes for rule in rules if rule.attributes.get("action") == "keep")
    assert keep["source_labels"] == ["__name__"] and keep["regex"] == "kiosk_.+"


def test_every_component_hands_on_to_one_that_exists() -> None:
    for tree in (CENTRAL, KIOSK):
        named = {f"{each.name}.{each.label}" for each in tree.blocks if each.label}
        targets = set(re.findall(r"<([\w.]+)\.(?:receiver|targets)>", str(tree)))
        sources = {f"{each.name}.{each.label}" for each in tree.blocks if "forward_to" in each.attributes}
        assert targets and targets <= named
        assert named - targets - sources == set(), "built for nobody"


def test_kiosk_and_office_meet_at_the_same_addresses() -> None:
    """What kiosk.alloy posts to is what the Caddyfile passes on to where central.alloy listens."""
    caddy = (ROOT / "config/caddy/Caddyfile").read_text("utf-8")
    logs = block(KIOSK, "loki.write", "office").blocks[0].attributes
    metrics = block(KIOSK, "prometheus.remote_write", "office").blocks[0].attributes
    for endpoint in (logs, metrics):
        path = endpoint["url"].partition(">")[2]
        assert f"path {path}\n" in caddy
        assert endpoint["bearer_token_file"] == "/etc/alloy/log_push_token"
    assert logs["max_backoff_retries"] == 0, "weeks offline must not drop lines"
    http = {
        each.name: each.blocks[0].attributes for each in CENTRAL.blocks if each.blocks and each.blocks[0].name == "http"
    }
    assert f"reverse_proxy alloy:{http['loki.source.api']['listen_port']} " in caddy
    assert f"reverse_proxy alloy:{http['prometheus.receive_http']['listen_port']} " in caddy
    assert "uri strip_prefix /telemetry\n" in caddy and "rewrite * /api/v1/metrics/write\n" in caddy


def test_the_unit_and_the_docker_option_feed_these_pipelines() -> None:
    unit = (ROOT / "systemd/kiosk-agent.service").read_text("utf-8")
    assert "StandardError=journal" in unit
    journal = block(KIOSK, "loki.source.journal", "agent").attributes
    assert journal["matches"] == "_SYSTEMD_UNIT=kiosk-agent.service"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    for service in compose["services"].values():
        assert service["logging"]["options"]["labels"] == "com.docker.compose.service"
        assert service["logging"]["driver"] == "json-file"


@pytest.mark.parametrize("bad", ['a "b" {', "a = ", 'a "b" { c = [1, }', "a = {b c}", "a ; b"])
def test_the_reader_refuses_what_alloy_would(bad: str) -> None:
    with pytest.raises(ValueError, match=r"expected|ends|not understood"):
        alloy(bad)
