"""One file per step; each adds before the code needs it and removes a release later."""
