"""The keeper: owns the listening sockets, starts and reaps processes, hands both on. Decides nothing."""
