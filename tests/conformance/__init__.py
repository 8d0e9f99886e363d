"""One suite for every driver of a kind, over real ptys."""
