"""Keeps the parts turning: devices and their supervisors, the bus, the guard, the clock, periodic jobs, systemd."""
