"""Migrations of the office's database; run by `kiosk central migrate`."""
