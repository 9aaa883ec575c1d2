"""A stand-in for Claude Code: writes down how it was started, then exits. Standard library only.

``install(folder)`` puts an executable ``claude`` there. ``OCD_STUB_RECORD`` names the file for the record
(JSON with argv, environ, pid, ppid, children, cwd, overlay, overlay_mode), ``OCD_STUB_EXIT`` the exit code.
"""

import json
import os
import stat
import sys


def install(folder, name="claude"):
    """Write the stub as ``folder/name`` and return its path."""
    path = os.path.join(folder, name)
    with open(__file__, encoding="utf-8") as source:
        text = f"#!{sys.executable} -IS\n{source.read()}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o755)
    return path


def record():
    """How this process was started. Bytes that are not UTF-8 are kept as lone surrogates."""
    found = {
        "argv": sys.argv[1:],
        "environ": dict(os.environ),
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "cwd": os.getcwd(),
        "children": children(),
        "overlay": None,
        "overlay_mode": None,
    }
    if "--settings" in sys.argv:
        path = sys.argv[sys.argv.index("--settings") + 1]
        found["overlay_mode"] = stat.S_IMODE(os.stat(path).st_mode)
        with open(path, encoding="utf-8") as file:
            found["overlay"] = json.load(file)
    return found


def children():
    """The process ids that this process came with: openclaude leaves none. None: cannot be known."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return file.read().split()
    except FileNotFoundError:
        return None


def main():
    path = os.environ.get("OCD_STUB_RECORD")
    if path:
        with open(f"{path}.part", "w", encoding="ascii") as file:
            json.dump(record(), file)
        os.rename(f"{path}.part", path)
    sys.exit(int(os.environ.get("OCD_STUB_EXIT", "0")))


if __name__ == "__main__":
    main()
