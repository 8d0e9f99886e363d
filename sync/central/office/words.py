"""The office's words in its languages, and amounts as people there write them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.domain.money import exponent_of

FOLDER = Path(__file__).parent / "texts"
NAMES = {"en": "English", "de": "Deutsch", "fr": "Français", "ru": "Русский"}
_SEPARATORS = {"en": (",", "."), "de": (".", ","), "fr": ("\u202f", ","), "ru": ("\u202f", ",")}


@cache
def texts(language: str) -> Mapping[str, str]:
    """All texts of a language by key."""
    found: dict[str, str] = tomllib.loads((FOLDER / f"{language}.toml").read_text("utf-8"))
    return found


@dataclass(frozen=True, slots=True)
class Words:
    language: str

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key`; the key itself for a state or code that a newer kiosk may have."""
        text = texts(self.language).get(key)
        if text is None:
            return key.partition(".")[2].replace("_", " ") or key
        return text.format(**values) if values else text

    def money(self, minor: int | None, currency: str | None) -> str:
        """`1,234.50 EUR` the way the language writes it; `–` when it is not known."""
        if minor is None or currency is None:
            return "–"
        group, point = _SEPARATORS[self.language]
        digits = exponent_of(currency)
        whole, rest = divmod(abs(minor), 10**digits)
        text = f"{whole:,}".replace(",", group) + (f"{point}{rest:0{digits}d}" if digits else "")
        return f"{'−' if minor < 0 else ''}{text}\u00a0{currency}"

    def number(self, value: int | None) -> str:
        return "–" if value is None else f"{value:,}".replace(",", _SEPARATORS[self.language][0])

    def size(self, value: int | None) -> str:
        """Bytes in binary units."""
        if value is None:
            return "–"
        units = ("B", "KiB", "MiB", "GiB", "TiB")
        step = 0
        amount = float(value)
        while amount >= 1024 and step < len(units) - 1:
            amount, step = amount / 1024, step + 1
        text = f"{amount:.0f}" if step == 0 or amount >= 100 else f"{amount:.1f}"
        return f"{text.replace('.', _SEPARATORS[self.language][1])}\u00a0{units[step]}"


def choose(cookie: str | None, accept: str, offered: Sequence[str]) -> str:
    """What the person chose, else the browser's first language that is offered, else the office's first."""
    if cookie in offered:
        return str(cookie)
    wanted: list[tuple[float, str]] = []
    for place, part in enumerate(accept.split(",")[:20]):
        tag, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((-float(weight or 1) + place / 1000, tag.partition("-")[0].lower()))
        except ValueError:
            continue
    return next((tag for _, tag in sorted(wanted) if tag in offered), offered[0])


Translate = Callable[..., str]
