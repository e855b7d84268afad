"""One format of recorded answers a file."""
