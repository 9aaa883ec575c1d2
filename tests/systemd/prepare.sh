#!/usr/bin/env bash
# Installs what the systemd tests need, where that is possible: root, apt, and no systemd or dbus yet.
set -eu
if command -v systemctl >/dev/null && command -v dbus-daemon >/dev/null && [ -x /lib/systemd/systemd ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "systemd or dbus is missing and cannot be installed by this user" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends systemd dbus >/dev/null
