"""A Debian package: `python3 -m packages.deb [FOLDER]` writes it into FOLDER (dist) and prints its path.

That needs dpkg-deb, and no root. The package has no maintainer scripts: nothing runs at its installation, and nothing
of a user's is touched when it goes.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packages import NAME, ROOT, VERSION, copy, stamp

CONTROL = """Package: {name}
Version: {version}
Architecture: all
Maintainer: the ocd authors <nobody@localhost>
Section: utils
Priority: optional
Depends: python3 (>= 3.11), python3-venv
Recommends: ca-certificates
Installed-Size: {size}
Description: per-user supervisor for two LiteLLM proxies, for Claude Code
 Claude Code runs over a Claude plan's login and an AWS account's Bedrock
 models at once, each kept in a process of its own.
 .
 This package brings the set-up command, ocd-setup. Each user runs it: it makes
 two private environments in their HOME and starts their daemon.
"""


def tree(folder: Path) -> None:
    """What the package puts into a system, below ``folder``."""
    share = folder / "usr/share" / NAME
    copy(share)
    script = share / "install.py"
    # The system's own Python, not the first one of a user's PATH.
    script.write_text(script.read_text().replace("#!/usr/bin/env python3", "#!/usr/bin/python3", 1))
    (folder / "usr/bin").mkdir()
    (folder / "usr/bin/ocd-setup").symlink_to(f"../share/{NAME}/install.py")
    documents = folder / "usr/share/doc" / NAME
    documents.mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", documents / "copyright")
    (documents / "changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), 9, mtime=0))
    for path in [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]:
        path.chmod(0o755 if path.is_dir() or path == script else 0o644)


def build(target: Path) -> Path:
    """Write the package into ``target``. Raises CalledProcessError, or FileNotFoundError without dpkg-deb."""
    target.mkdir(parents=True, exist_ok=True)
    package = target / f"{NAME}_{VERSION}_all.deb"
    with tempfile.TemporaryDirectory(prefix="ocd-deb-") as name:
        folder = Path(name)
        tree(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024 + 1
        (folder / "DEBIAN").mkdir(mode=0o755)
        (folder / "DEBIAN/control").write_text(CONTROL.format(name=NAME, version=VERSION, size=size))
        stamp(folder)
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(int(folder.stat().st_mtime))}
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(folder), str(package)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
    return package


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
