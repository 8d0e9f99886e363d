"""Device drivers: ports (what a device can do), links (how bytes travel), one folder per protocol."""
