"""The control API: a UNIX socket, one function a verb."""
