"""Fixtures of the office's tests: real servers, and kiosks that speak the wire contract by themselves."""

from tests.servers import centre, database, servers

__all__ = ["centre", "database", "servers"]
