"""One trial on its node."""
