"""ocd itself as a wheel, from the files of the package that runs: the same files, the same bytes on every machine."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping

_NAME = "openclaude_daemon"
_SCRIPTS = """[console_scripts]
ocd = ocd.__main__:main
occtl = ocd.ctl.__main__:main
openclaude = ocd.client.__main__:main
"""


def name(version: str) -> str:
    return f"{_NAME}-{version}-py3-none-any.whl"


def wheel(version: str, files: Mapping[str, bytes]) -> bytes:
    """``files``: path from the package's parent folder (``ocd/…``) → content."""
    info = f"{_NAME}-{version}.dist-info"
    whole = dict(sorted(files.items())) | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: openclaude-daemon\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: occtl export\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": _SCRIPTS.encode(),
    }
    record = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in whole.items()]
    whole[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]).encode() + b"\n"
    packed = io.BytesIO()
    # Stored: another zlib would make other bytes of the same files.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path, content in whole.items():
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
