"""The edge agent: one daemon per kiosk that drives the devices, keeps every fact and serves the local API."""
