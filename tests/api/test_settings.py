"""Settings of the API that are wrong stop the start; none of them opens the API further than it says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.api.settings import ApiSettings
from agent.domain.errors import ConfigError
from tests.api.conftest import UI_TOKEN


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "http://*",
        "http://127.0.0.1:3000/",
        "127.0.0.1:3000",
        "file://",
        "http://a@b",
        "http://127.0.0.1/x",
    ],
)
def test_only_exact_origins(origin: str) -> None:
    with pytest.raises(ValidationError, match="an origin is exactly"):
        ApiSettings(ui_origins=(origin,))


def test_the_ui_token_comes_from_a_file_or_the_environment_and_is_strong(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{UI_TOKEN}\n")
    assert ApiSettings(ui_token_file=file).read_ui_token() == UI_TOKEN
    assert ApiSettings.model_validate({"ui_token": UI_TOKEN}).read_ui_token() == UI_TOKEN
    assert ApiSettings().read_ui_token() is None
    assert UI_TOKEN not in repr(ApiSettings.model_validate({"ui_token": UI_TOKEN}))
    for weak in (ApiSettings.model_validate({"ui_token": "secret"}), ApiSettings(ui_token_file=tmp_path / "none")):
        with pytest.raises(ConfigError, match=r"api\.ui_token"):
            weak.read_ui_token()


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="cors"):
        ApiSettings.model_validate({"cors": "*"})
