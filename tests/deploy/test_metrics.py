"""Alert rules and dashboard name nothing that the code does not export, and every address leads to a container."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivers.ports import DeviceState
from sync.central.metrics import Metrics
from tests.deploy import stack

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "config/prometheus/rules.yml"
PROMETHEUS = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text("utf-8"))
DASHBOARD: dict[str, Any] = json.loads((ROOT / "config/grafana/dashboards/fleet.json").read_text("utf-8"))
DATASOURCES = yaml.safe_load((ROOT / "config/grafana/provisioning/datasources/datasources.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = stack.read(stack.FILLED)["services"]
OURS = re.compile(r"\b(?:kiosk|central)_[a-z_]+\b")


def exported_by_the_agent() -> dict[str, set[str]]:
    """Series → labels, from the constructors in agent/runtime/metrics.py: running them would need a whole agent."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse((ROOT / "agent/runtime/metrics.py").read_text("utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = str(node.args[0].value)
            if name.startswith("kiosk_"):
                kind = ast.unparse(node.func)
                labels = next((each.value for each in node.keywords if each.arg == "labels"), None)
                suffix = "_total" if kind == "CounterMetricFamily" else ""
                found[name + suffix] = set(ast.literal_eval(labels)) if labels is not None else set()
    return found


def exported_by_the_office() -> dict[str, set[str]]:
    """Series → labels, as a scrape shows them."""
    metrics = Metrics()
    metrics.calls.labels(path="/api/v1/ingest", outcome="ok").inc()  # labels show with the first value
    text = metrics.text().decode()
    found: dict[str, set[str]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        for suffix in ("_bucket", "_count", "_sum") if kind == "histogram" else ("",):
            shown = re.search(rf"^{name}{suffix}\{{(.*)\}}", text, re.M)
            found[name + suffix] = set(re.findall(r'(\w+)="', shown[1])) if shown else set()
    return found


def exported_of_the_fleet() -> dict[str, set[str]]:
    """From the constructors in sync/central/fleet.py, whose values come from Postgres (tests/central/test_fleet.py)."""
    source = (ROOT / "sync/central/fleet.py").read_text("utf-8")
    found = {name: {"kiosk", "name"} for name in re.findall(r'_of_kiosks\("(\w+)"', source)}
    for name, labels in re.findall(r'GaugeMetricFamily\("(\w+)"[^)\n]*?(?:labels=(\[[^]]*\]))?\)', source):
        found[name] = set(ast.literal_eval(labels)) if labels else set()
    return found


EXPORTED = {**exported_by_the_agent(), **exported_by_the_office(), **exported_of_the_fleet()}


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule


def expressions() -> Iterator[tuple[str, str]]:
    yield from ((name, rule["expr"]) for name, rule in rules())
    for panel in DASHBOARD["panels"]:
        if panel["datasource"]["uid"] == "prometheus":
            yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def test_the_lists_of_exported_names_were_found() -> None:
    assert {"kiosk_sync_lag_rows", "kiosk_device_reopened_total", "kiosk_store_failed"} <= EXPORTED.keys()
    assert {"central_rows_total", "central_kiosk_calls_total", "central_ingest_seconds_bucket"} <= EXPORTED.keys()


@pytest.mark.parametrize("where, expression", list(expressions()))
def test_every_series_that_is_asked_for_is_exported(where: str, expression: str) -> None:
    """A rule over a name that nobody exports is quiet for ever."""
    names = set(OURS.findall(re.sub(r'"[^"]*"', "", expression)))
    assert names <= EXPORTED.keys(), where
    for name in names:
        for labels in re.findall(rf"{name}\{{([^}}]*)\}}", expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)) - {"kiosk", "job"}
            assert asked <= EXPORTED[name], f"{where}: {name}"


def test_states_and_outcomes_in_rules_are_real_ones() -> None:
    states = {each.value for each in DeviceState}
    for where, expression in expressions():
        for asked in re.findall(r'state=~"([^"]+)"', expression):
            assert set(asked.split("|")) <= states, where


def test_alarm_codes_in_rules_are_real_ones() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "sync/central").glob("*.py"))
    asked = {
        code for _, text in expressions() for each in re.findall(r'code=~"([^"]+)"', text) for code in each.split("|")
    }
    assert asked and all(re.search(rf'Alarm\(\s*"{code}"', sources) for code in asked)


def test_what_must_wake_somebody_has_a_rule() -> None:
    names = {name for name, _ in rules()}
    assert names >= {"KioskSilent", "KioskLagGrowing", "KioskSyncRefused", "KioskTakesNoMoney", "OfficeDown"}
    assert names >= {"KioskUnheard", "KioskBehind", "MoneyInDoubt", "JournalForked", "BlobNotWhatItWas"}
    for name, rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}, name
        assert rule["annotations"]["summary"], name


def test_every_address_leads_to_a_container_in_the_same_network() -> None:
    """Who asks whom: Prometheus, Grafana, Alloy, Promtail and caddy, as their files say."""
    asks = {
        "prometheus": [
            target for job in PROMETHEUS["scrape_configs"] for target in job["static_configs"][0]["targets"]
        ],
        "grafana": [each["url"] for each in DATASOURCES["datasources"]],
        "alloy": re.findall(r'url = "([^"]+)"', (ROOT / "config/alloy/central.alloy").read_text("utf-8")),
        "promtail": re.findall(r"url: (\S+)", (ROOT / "config/promtail/promtail.yml").read_text("utf-8")),
        "caddy": re.findall(r"reverse_proxy (\S+) ?", (ROOT / "config/caddy/Caddyfile").read_text("utf-8")),
        "central": [SERVICES["central"]["environment"]["CENTRAL_S3__ENDPOINT"]],
        "buckets": re.findall(r"http://minio:\d+", (ROOT / "config/minio/buckets.sh").read_text("utf-8")),
    }
    ports = {"central": 8000, "minio": 9000, "loki": 3100, "prometheus": 9090, "grafana": 3000}
    for asker, addresses in asks.items():
        assert addresses, asker
        for address in addresses:
            host, _, port = re.sub(r"^http://|/.*$", "", address).partition(":")
            if host == "127.0.0.1":
                continue
            assert set(SERVICES[asker]["networks"]) & set(SERVICES[host]["networks"]), f"{asker} → {address}"
            assert host == "alloy" or int(port) == ports[host], f"{asker} → {address}"


def test_prometheus_takes_what_alloy_writes() -> None:
    assert "--web.enable-remote-write-receiver" in SERVICES["prometheus"]["command"]
    assert PROMETHEUS["rule_files"] == [
        target for _, target, _ in stack.sources(SERVICES["prometheus"]) if "rules" in target
    ]


@pytest.mark.proof
def test_promtool_agrees() -> None:
    """Not in CI: the package is 75 MB. What it would say first, names nobody exports, the tests above say."""
    promtool = shutil.which("promtool") or pytest.fail("this proof needs: apt-get install prometheus")
    config = str(RULES.with_name("prometheus.yml"))
    for command in (["check", "rules", str(RULES)], ["check", "config", "--syntax-only", config]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = {each["uid"] for each in DATASOURCES["datasources"]}
    for panel in panels:
        assert panel["datasource"]["uid"] in sources and panel["targets"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    cells = [
        (column, row)
        for panel in panels
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie on top of each other"
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", json.dumps([panel["targets"] for panel in panels])))
    assert used == variables


def test_one_trace_can_be_followed_from_a_line_and_by_hand() -> None:
    loki = next(each for each in DATASOURCES["datasources"] if each["uid"] == "loki")
    (field,) = loki["jsonData"]["derivedFields"]
    assert (field["matcherType"], field["matcherRegex"]) == ("label", "trace_id")
    assert "$${__value.raw}" in field["url"], "one $ would be an environment variable to Grafana"
    traces = [panel for panel in DASHBOARD["panels"] if "$trace_id" in json.dumps(panel["targets"])]
    assert [panel["datasource"]["uid"] for panel in traces] == ["loki"]


def test_logs_are_kept_and_then_deleted() -> None:
    loki = yaml.safe_load((ROOT / "config/loki/loki.yml").read_text("utf-8"))
    assert loki["limits_config"]["retention_period"] == "90d"
    assert loki["compactor"]["retention_enabled"] is True and loki["compactor"]["delete_request_store"]
    assert loki["limits_config"]["allow_structured_metadata"] is True
    folders = [*re.findall(r": (/\S+)", (ROOT / "config/loki/loki.yml").read_text("utf-8"))]
    assert folders and all(folder.startswith("/loki") for folder in folders), "the only place it may write"
