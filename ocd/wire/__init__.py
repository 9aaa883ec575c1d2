"""The control API's messages: what the daemon and its clients say to each other."""
