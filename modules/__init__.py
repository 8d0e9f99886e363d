"""What the kiosk does with its devices: each folder is a module that `RouterFactory` finds by its `module.py`."""
