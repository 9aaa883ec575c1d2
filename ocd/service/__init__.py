"""The only platform knowledge about service managers: systemd, launchd, none."""
