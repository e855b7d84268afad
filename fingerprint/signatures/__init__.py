"""One kind of behaviour a file."""
