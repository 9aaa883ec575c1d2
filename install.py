#!/usr/bin/env python3
"""Set up ocd for this user: no root, no questions, nothing but the standard library.

    python3 install.py                 install or upgrade, start, show the status
    python3 install.py --dry-run       say what would be done
    python3 install.py --prefix DIR    keep everything under one folder
    python3 install.py --uninstall     leave nothing behind but your configuration

Two private environments are made in the data folder, one for the daemon and one for LiteLLM, both from lists that
name every file's hash. Links named ``current`` and ``litellm`` point to them and are swapped in one step, so an
upgrade never has a broken moment. Exit codes follow sysexits.h.
"""

import sys

if sys.version_info < (3, 11):
    import os
    import subprocess

    # Newest first. One that does not run, or is not what its name says (a version manager's shim), is passed over.
    for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3"):
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            newer = os.path.join(folder, name)
            if not os.path.isabs(folder) or not os.access(newer, os.X_OK):
                continue
            try:
                code = "import sys; print(sys.version_info >= (3, 11))"
                if subprocess.check_output([newer, "-I", "-c", code], stderr=subprocess.STDOUT) != b"True\n":
                    continue
                said = "This is Python %d.%d, too old for ocd: going on with %s.\n"
                sys.stderr.write(said % (sys.version_info[0], sys.version_info[1], newer))
                sys.stderr.flush()
                os.execv(newer, [newer, os.path.abspath(__file__), *sys.argv[1:]])
            except (OSError, subprocess.CalledProcessError):
                continue
    sys.stderr.write(
        "ocd needs Python 3.11 or newer, this is %d.%d, and there is no newer one on your PATH. Install one and run "
        "it: python3.12 install.py. With uv: uv run --no-project --python 3.12 install.py\n"
        % sys.version_info[:2]
    )
    sys.exit(69)

if __name__ == "__main__":
    import os

    SCRIPT = os.path.realpath(__file__)
    if not sys.flags.isolated:
        # PYTHONPATH and its like, the user's packages and the current folder must not decide what is imported.
        os.execv(sys.executable, [sys.executable, "-I", SCRIPT, *sys.argv[1:]])
    sys.path.insert(0, os.path.dirname(SCRIPT))
    # The checkout may be read-only, and is nothing to write into.
    sys.dont_write_bytecode = True
    from ocd.installer.main import main

    sys.exit(main())
