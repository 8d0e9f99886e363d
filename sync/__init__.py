"""From the kiosk's journal to the central office: wire contract, edge side, central side."""
