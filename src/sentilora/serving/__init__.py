"""A server: HTTP in one process, the model in another, a pipe of bytes between them."""
