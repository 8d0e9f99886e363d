"""Reads udev rules and applies them to described devices, as far as the kiosk's rules go. Source: udev(7), systemd 252.

A key or operator that the real udev would refuse, or that this reader does not know, raises `ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

MATCH = {"==", "!="}
ASSIGN = {"=", "+=", "-=", ":="}
OPERATORS: dict[str, set[str]] = {
    **dict.fromkeys(("ACTION", "KERNEL", "SUBSYSTEM", "SUBSYSTEMS", "DRIVER", "DRIVERS", "ATTRS", "TEST"), MATCH),
    **{key: {*MATCH, "=", "+="} for key in ("ATTR", "ENV")},
    **dict.fromkeys(("GROUP", "MODE", "OWNER", "SYMLINK"), ASSIGN),
    **{key: {"="} for key in ("GOTO", "LABEL")},
}
NEEDS_ATTRIBUTE = {"ATTR", "ATTRS", "ENV"}
_TOKEN = re.compile(r'\s*([A-Z]+)(?:\{([^}]+)\})?\s*(==|!=|\+=|-=|:=|=)\s*"([^"]*)"\s*(,|$)')


@dataclass(frozen=True, slots=True)
class Term:
    key: str
    attribute: str
    operator: str
    value: str

    @property
    def is_match(self) -> bool:
        return self.operator in MATCH


@dataclass(slots=True)
class Device:
    """What the kernel and the rules before ours say of a device; `parents` from the nearest outwards."""

    kernel: str
    subsystem: str
    action: str = "add"
    driver: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    parents: list[Device] = field(default_factory=list)
    group: str = ""
    mode: str = ""
    links: set[str] = field(default_factory=set)


def parse(text: str) -> list[list[Term]]:
    """The rules of a file. Raises `ValueError` naming the line."""
    rules: list[list[Term]] = []
    plain = "\n".join("" if line.lstrip().startswith("#") else line for line in text.splitlines())
    for number, line in enumerate(plain.replace("\\\n", "").splitlines(), 1):
        if line.strip():
            rules.append(_terms(line, number))
    labels = [term.value for rule in rules for term in rule if term.key == "LABEL"]
    goals = {term.value for rule in rules for term in rule if term.key == "GOTO"}
    if len(labels) != len(set(labels)) or goals - set(labels):
        raise ValueError(f"labels {labels} and gotos {sorted(goals)} do not fit")
    return rules


def _terms(line: str, number: int) -> list[Term]:
    found, place = [], 0
    while place < len(line):
        match = _TOKEN.match(line, place)
        if match is None:
            raise ValueError(f"rule {number}: not understood at {line[place:]!r}")
        key, attribute, operator, value, _ = match.groups()
        if operator not in OPERATORS.get(key, ()):
            raise ValueError(f"rule {number}: {key} does not take {operator}")
        if (attribute is not None) != (key in NEEDS_ATTRIBUTE):
            raise ValueError(f"rule {number}: {key} and its braces")
        found.append(Term(key, attribute or "", operator, value))
        place = match.end()
    return found


def apply(rules: list[list[Term]], device: Device) -> Device:
    """Changes and returns `device`."""
    goal = ""
    for rule in rules:
        if goal:
            goal = "" if any(term.key == "LABEL" and term.value == goal for term in rule) else goal
            continue
        if _fits(rule, device):
            for term in rule:
                if not term.is_match:
                    goal = term.value if term.key == "GOTO" else goal
                    _assign(term, device)
    return device


def _fits(rule: list[Term], device: Device) -> bool:
    """Own keys on the device; those that end in S all on one and the same of it and its parents."""
    above = [term for term in rule if term.is_match and term.key in {"SUBSYSTEMS", "DRIVERS", "ATTRS"}]
    own = [term for term in rule if term.is_match and term not in above]
    return all(_one(term, device) for term in own) and (
        not above or any(all(_one(term, each) for term in above) for each in [device, *device.parents])
    )


_VALUES: Mapping[str, Callable[[Device, str], str | None]] = {
    "ACTION": lambda device, _: device.action,
    "KERNEL": lambda device, _: device.kernel,
    "SUBSYSTEM": lambda device, _: device.subsystem,
    "SUBSYSTEMS": lambda device, _: device.subsystem,
    "DRIVER": lambda device, _: device.driver,
    "DRIVERS": lambda device, _: device.driver,
    "ATTR": lambda device, name: device.attributes.get(name),
    "ATTRS": lambda device, name: device.attributes.get(name),
    "ENV": lambda device, name: device.env.get(name, ""),
}


def _one(term: Term, device: Device) -> bool:
    if term.key == "TEST":
        return (term.value in device.attributes) == (term.operator == "==")
    value = _VALUES[term.key](device, term.attribute)
    if value is None:
        return False  # an attribute that is not there matches nothing, `!=` included
    hit = any(fnmatchcase(value, pattern) for pattern in term.value.split("|"))
    return hit == (term.operator == "==")


def _assign(term: Term, device: Device) -> None:
    value = re.sub(r"\$env\{([^}]+)\}", lambda match: device.env.get(match[1], ""), term.value)
    match term.key:
        case "ENV":
            device.env[term.attribute] = value
        case "ATTR":
            device.attributes[term.attribute] = value
        case "GROUP":
            device.group = value
        case "MODE":
            device.mode = value
        case "SYMLINK":
            (device.links.discard if term.operator == "-=" else device.links.add)(value)
