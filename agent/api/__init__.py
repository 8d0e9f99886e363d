"""The local API: app, RouterFactory, auth, devices, events, diagnostics and the kiosk's own pages."""
