"""The golden CCNET vectors, as pytest parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "golden" / "ccnet.vectors.json").read_text("utf-8")
)
VALID = [each for each in VECTORS if each["decoded"].get("valid", True)]
INVALID = [each for each in VECTORS if not each["decoded"].get("valid", True)]


def name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def raw(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"])
