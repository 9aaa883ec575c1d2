"""Keeps the proxies running: the runner of each, the forkserver, health, idle, hand-over."""
