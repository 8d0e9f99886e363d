"""Tests of the runtime: devices, bus, guard, and the daemon as a real process."""
