"""The centre's stack starts as it is meant to, or says why not: schema, secrets, networks, hardening, settings."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from config.loader import load
from sync.central.settings import CONFIG_NAME, ENV_PREFIX, CentralSettings
from tests.deploy import stack
from tests.deploy.stack import FILLED, ROOT

ONCE = {"migrate", "buckets"}  # run, then end
BUILT = {"central", "migrate"}
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|DSN|REDIS__URL|ROOT_USER")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return stack.read(FILLED)


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "config/make-secrets.sh", folder], check=True, capture_output=True)
    return folder


def test_the_file_is_what_the_compose_specification_allows(compose: dict[str, Any]) -> None:
    """A key that compose does not know would be refused on the office's machine, not here."""
    schema = json.loads((ROOT / "tests/golden/compose-spec/compose-spec.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [f"{list(each.path)}: {each.message}" for each in validator.iter_errors(compose)] == []
    broken = {**compose, "services": {**compose["services"], "x": {"image": "a:1", "restrat": "always"}}}
    assert list(validator.iter_errors(broken)), "the schema lets everything pass"


@pytest.mark.parametrize("missing", FILLED)
def test_an_unset_variable_stops_the_start_and_is_named(missing: str) -> None:
    with pytest.raises(stack.Unset, match=rf"{missing}: .*see \.env\.example"):
        stack.read({**FILLED, missing: ""})


def test_every_variable_stands_in_the_example_and_none_has_a_value_that_works() -> None:
    used = stack.variables(stack.COMPOSE.read_text("utf-8"))
    must, may = stack.example()
    assert {name for name, (kind, _) in used.items() if kind == ":?"} == set(must) == set(FILLED)
    assert {name: default for name, (kind, default) in used.items() if kind == ":-"} == may
    assert {kind for kind, _ in used.values()} == {":?", ":-"}, "a variable that is silently empty"
    assert set(must.values()) == {""}


def test_files_with_secrets_do_not_get_into_git() -> None:
    for name in (".env", "age/office.key"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 0, name


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        image = service["image"]
        if name in BUILT:
            assert image == "kiosk-central:0.1.0"
            continue
        tag = image.rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?|RELEASE\.\d{4}(-\d{2}){2}T\d{2}(-\d{2}){2}Z", tag), image


def test_what_is_mounted_exists_and_is_read_only(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for source, target, mode in stack.sources(service):
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert mode == "ro", f"{name}: {target}"
            elif source.startswith("/"):
                assert (source, mode) == ("/var/lib/docker/containers", "ro"), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
    assert "docker.sock" not in stack.COMPOSE.read_text("utf-8"), "who may ask the socket is root on the host"
    used = {source for service in services.values() for source, _, _ in stack.sources(service)}
    assert set(compose["volumes"]) <= used


def test_secrets_are_files_and_each_is_made_declared_and_used(
    compose: dict[str, Any], services: dict[str, dict[str, Any]], secrets: Path
) -> None:
    declared = {name: Path(entry["file"]) for name, entry in compose["secrets"].items()}
    assert {path.parent for path in declared.values()} == {Path(FILLED["SECRETS_DIR"])}
    assert all(path.name == name for name, path in declared.items())
    assert {each for service in services.values() for each in service.get("secrets", [])} == set(declared)
    assert {path.name for path in secrets.iterdir()} == set(declared)
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key):
                assert key.endswith("_FILE"), f"{name}: {key} is a secret in the environment"
            if str(value).startswith("/run/secrets/"):
                assert Path(value).name in service["secrets"], f"{name}: {key}"
        words = " ".join(map(str, [service.get("command", ""), service.get("healthcheck", {}).get("test", "")]))
        for mounted in re.findall(r"/run/secrets/(\w+)", words):
            assert mounted in service["secrets"], f"{name}: {mounted}"


def test_making_secrets_twice_changes_nothing_and_they_are_closed_to_others(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run([ROOT / "config/make-secrets.sh", secrets], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}
    assert before["postgres_password"] in before["database_dsn"]
    assert before["redis_conf"] == f"requirepass {before['redis_password']}"
    assert f":{before['redis_password']}@redis:" in before["redis_url"]
    assert len(before["s3_access_key"]) == 20 and len(before["s3_secret_key"]) == 40
    assert len(set(before.values())) == len(before), "two secrets are the same"
    assert not any(value.endswith("\n") for value in before.values()), "caddy compares the token as it stands"


@pytest.mark.parametrize("name", ["central", "migrate"])
def test_the_office_accepts_its_environment(
    name: str, services: dict[str, dict[str, Any]], secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded as the office loads it: a name that is no key, or a value that is not possible, raises here."""
    given = {key: str(value) for key, value in services[name]["environment"].items()}
    environ = {key: value.replace("/run/secrets", str(secrets)) for key, value in given.items()}
    assert environ.pop("CENTRAL_CONFIG") == f"/etc/kiosk/{CONFIG_NAME}"
    settings = load(CentralSettings, ROOT / "config" / CONFIG_NAME, environ, ENV_PREFIX)
    assert settings.database.url() == (secrets / "database_dsn").read_text()
    assert settings.redis.address() == (secrets / "redis_url").read_text()
    assert settings.s3.keys() == tuple((secrets / key).read_text() for key in ("s3_access_key", "s3_secret_key"))
    assert len(settings.auth.key()) >= 32
    assert settings.keys.public() == [FILLED["OFFICE_RECIPIENT"], FILLED["RECOVERY_RECIPIENT"]]
    assert settings.keys.recipients, "in the environment, so that `kiosk central init` makes none of its own"
    assert settings.s3.public_endpoint == f"https://{FILLED['S3_HOST']}", "the host that kiosks sign"
    assert settings.office.origins == [f"https://{FILLED['CENTRAL_HOST']}"]
    assert settings.logging.json_lines and settings.office.cookie_secure


def test_postgres_and_office_mean_the_same_database(services: dict[str, dict[str, Any]], secrets: Path) -> None:
    database = services["postgres"]["environment"]
    dsn = (secrets / "database_dsn").read_text()
    assert dsn.startswith(f"postgresql://{database['POSTGRES_USER']}:")
    assert dsn.endswith(f"@postgres:5432/{database['POSTGRES_DB']}")
    major = re.match(r"postgres:(\d+)", services["postgres"]["image"])
    assert major and int(major[1]) >= 18, "before 18 the volume must stand at /var/lib/postgresql/data"
    assert stack.sources(services["postgres"]) == [("postgres", "/var/lib/postgresql", "rw")]


def test_only_caddy_can_be_reached_and_only_caddy_can_get_out(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    assert [name for name, service in services.items() if service.get("ports")] == ["caddy"]
    assert not any(service.get("network_mode") or service.get("privileged") for service in services.values())
    inside = {name for name, network in compose["networks"].items() if (network or {}).get("internal")}
    assert set(compose["networks"]) - inside == {"edge"}
    members = {net: {name for name, each in services.items() if net in each["networks"]} for net in compose["networks"]}
    assert members["edge"] == {"caddy"}
    assert members["data"] == {"central", "migrate", "postgres", "redis", "minio", "buckets"}
    assert not members["data"] & {"caddy", "grafana", "alloy", "prometheus"}
    for alone in ("postgres", "redis"):
        assert services[alone]["networks"] == ["data"]
    table = (ROOT / "config/README.md").read_text("utf-8")
    for network, names in members.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{network}` |"))
        assert set(re.findall(r"[a-z]+", row.split("|")[2].partition(":")[0])) == names


def test_every_container_is_hardened_and_bounded(services: dict[str, dict[str, Any]]) -> None:
    extra = {"caddy": ["NET_BIND_SERVICE"], "alloy": ["DAC_READ_SEARCH"], "promtail": ["DAC_READ_SEARCH"]}
    roots = {"caddy", "minio", "buckets", "alloy", "promtail"}  # without any capability but those above
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == extra.get(name, []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() >= {"max-size", "max-file", "labels"}, name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert service["restart"] == ("on-failure:5" if name in ONCE else "unless-stopped"), name
        user = str(service.get("user", "0")).partition(":")[0]
        assert (user == "0") == (name in roots), f"{name} runs as {user}"


def test_the_order_of_the_start_ends(services: dict[str, dict[str, Any]]) -> None:
    """A condition on a service without a health check, or a circle, would wait for ever."""
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    for name, conditions in waits.items():
        for other, how in conditions.items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            assert (how["condition"] == "service_completed_successfully") == (other in ONCE), (
                f"{name} waits for {other}"
            )
    assert waits["central"].keys() >= {"migrate", "buckets", "postgres"}
    assert waits["central"]["redis"] == {"condition": "service_started"}, "the office works without Redis"
    done: set[str] = set()
    while ready := {name for name in waits if name not in done and set(waits[name]) <= done}:
        done |= ready
    assert done == set(services)
    assert {name for name in services if "healthcheck" not in services[name]} == {*ONCE, "promtail"}
    assert [name for name, service in services.items() if service.get("profiles")] == ["promtail"]


def test_yaml_files_have_no_key_twice() -> None:
    """YAML keeps the last of two keys and says nothing."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands twice"
            return super().construct_mapping(node, deep)

    for path in [stack.COMPOSE, *(ROOT / "config").rglob("*.yml")]:
        assert yaml.load(path.read_text("utf-8"), Strict), path
