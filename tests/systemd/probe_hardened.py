"""Tries what the hardened sandbox forbids, and writes down what came of it (JSON). Standard library only."""

import errno
import json
import os
import stat
import sys
import tempfile


def attempt(action):
    """``allowed``, or the error's name."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return "allowed"


def write_in(folder):
    def action():
        with tempfile.NamedTemporaryFile(dir=folder):
            pass

    return attempt(action)


def own_cgroup():
    """The folder of this process's control group, in whichever hierarchy is mounted."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        for line in file:
            _number, _controllers, path = line.rstrip("\n").split(":", 2)
            for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
                if path != "/" and os.path.isdir(base + path):
                    return base + path
    return "/sys/fs/cgroup"


def blocks():
    found = []
    for name in os.listdir("/dev"):
        try:
            if stat.S_ISBLK(os.stat(f"/dev/{name}").st_mode):
                found.append(name)
        except OSError:
            continue
    return found


def make_cgroup():
    path = os.path.join(own_cgroup(), "probe")
    os.mkdir(path)
    os.rmdir(path)


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def main():
    out, elsewhere = sys.argv[1:]
    fields = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines())
    found = {
        **{name: fields[name].strip() for name in ("CapBnd", "CapEff")},
        "others": os.stat(elsewhere).st_uid,
        "users": sum(int(line.split()[2]) for line in read("/proc/self/uid_map").splitlines()),
        "elsewhere": write_in(elsewhere),
        "home": write_in(os.path.expanduser("~")),
        "tmp": write_in("/tmp"),
        "runtime": write_in(os.environ["XDG_RUNTIME_DIR"]),
        "mounts": os.readlink("/proc/self/ns/mnt"),
        "devices": os.stat("/dev").st_dev,
        "block": blocks(),
        "random": attempt(lambda: os.close(os.open("/dev/urandom", os.O_RDONLY))),
        "cgroup": attempt(make_cgroup),
        "modules": attempt(lambda: os.listdir("/usr/lib/modules")),
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
