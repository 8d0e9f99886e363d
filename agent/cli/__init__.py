"""The command line `kiosk`: thin commands that ask the daemon, or open the store under its lock when it is stopped."""
