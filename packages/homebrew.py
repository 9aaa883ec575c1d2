"""A Homebrew formula: `python3 -m packages.homebrew [FOLDER]` writes it and its archive into FOLDER (dist).

Its address is the archive beside it; whoever publishes the archive passes `--url`. It has no resources: what ocd
consists of is installed for each user by `ocd-setup`, from the locks in the archive.
"""

import gzip
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from packages import NAME, VERSION, copy, sha256, stamp

FORMULA = """class Ocd < Formula
  desc "Per-user supervisor for two LiteLLM proxies, for Claude Code"
  homepage "{url}"
  url "{url}"
  version "{version}"
  sha256 "{sha256}"
  license "MIT"

  depends_on "python@3.13"

  def install
    inreplace "install.py", "#!/usr/bin/env python3", "#!#{{Formula["python@3.13"].opt_bin}}/python3.13"
    libexec.install Dir["*"]
    bin.install_symlink libexec/"install.py" => "ocd-setup"
  end

  def caveats
    <<~EOS
      Each user runs `ocd-setup`: it makes two private environments and starts the daemon.
      Before `brew uninstall ocd`: `ocd-setup --uninstall`.
    EOS
  end

  test do
    assert_match "would", shell_output("#{{bin}}/ocd-setup --dry-run --prefix #{{testpath}}/ocd")
  end
end
"""


def archive(target: Path) -> Path:
    """What the formula installs, packed; the same bytes for the same code."""
    path = target / f"{NAME}-{VERSION}.tar.gz"
    with tempfile.TemporaryDirectory(prefix="ocd-brew-") as name:
        folder = Path(name) / f"{NAME}-{VERSION}"
        copy(folder)
        stamp(folder)
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for one in [folder, *sorted(folder.rglob("*"))]:
                info = tar.gettarinfo(one, str(one.relative_to(name)))
                info.uid = info.gid = 0
                info.uname = info.gname = "root"
                with one.open("rb") if one.is_file() else io.BytesIO() as file:
                    tar.addfile(info, file if one.is_file() else None)
    path.write_bytes(gzip.compress(plain.getvalue(), 9, mtime=0))
    return path


def build(target: Path, url: str = "") -> Path:
    """Write the formula and its archive into ``target``; returns the formula's path."""
    target.mkdir(parents=True, exist_ok=True)
    packed = archive(target)
    formula = target / "ocd.rb"
    address = url or packed.resolve().as_uri()
    formula.write_text(FORMULA.format(url=address, version=VERSION, sha256=sha256(packed)))
    return formula


if __name__ == "__main__":
    words = sys.argv[1:]
    given = words.pop(words.index("--url") + 1) if "--url" in words else ""
    words = [word for word in words if word != "--url"]
    print(build(Path(words[0] if words else "dist"), given))
