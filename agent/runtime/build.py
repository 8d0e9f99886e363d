"""What this build is: its version and the day before which no clock can be right."""

from __future__ import annotations

VERSION = "0.1.0"  # the same as in pyproject.toml; a test compares them
BUILT_AT_US = 1_795_305_600_000_000  # 2026-11-22 00:00 UTC; raised with every release
