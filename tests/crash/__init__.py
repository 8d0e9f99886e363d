"""Power loss, failed syncs and full disks, on the real store over a recording or failing VFS."""
