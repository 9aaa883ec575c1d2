"""Which files does a proxy's behaviour depend on? For watching, and for the snapshot."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings

#: "module.instance", the way LiteLLM names custom code (litellm/proxy/types_utils/utils.py, get_instance_fn)
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
#: Python files beside a YAML file that are followed; a configuration folder is no home folder
MOST_MODULES = 2000


def config_path(folders: Folders, settings: Settings, proxy: str) -> Path:
    """The proxy's LiteLLM file: as set, relative to the configuration folder, links not resolved."""
    return folders.config / Path(settings.proxy(proxy).config).expanduser()


def inputs(folders: Folders, settings: Settings, proxy: str) -> list[Path]:
    """Every file whose change may change what ``proxy`` ("main", "bedrock") does, existing or not.

    Its YAML file with what it includes; the Python code beside it when it names any; AWS's two files for
    bedrock. A symbolic link is listed as itself and as what it leads to. ``ocd.toml`` is not: it is not one
    proxy's. Never raises for a broken file: what could be found is listed.
    """
    path = config_path(folders, settings, proxy)
    yaml_files, code = litellm_inputs(path)
    listed = [path, *yaml_files, *code]
    if proxy == "bedrock":
        listed += aws_files()
    return list(dict.fromkeys(_with_targets(listed)))


def aws_files() -> list[Path]:
    """AWS's configuration and credentials; AWS_CONFIG_FILE and the like are not inherited by the proxy."""
    folder = Path.home() / ".aws"
    return [folder / "config", folder / "credentials"]


def litellm_inputs(path: Path) -> tuple[list[Path], list[Path]]:
    """The YAML files (``path`` and its includes, missing ones too) and the Python files that it needs."""
    from ocd.stack.litellm_file import load_litellm

    try:
        file = load_litellm(path)
    except ConfigError:
        # Broken now: its includes are unknown, but the code beside it may be what is being mended.
        return [path], []
    code = list(_code_beside(path.parent)) if names_code(file.data, path.parent) else []
    return [path, *file.wanted], code


def names_code(data: Any, folder: Path) -> bool:
    """Whether any text in ``data`` names a module that lies in ``folder``."""
    return any(module_file(text, folder) is not None for text in _texts(data))


def module_file(name: str, folder: Path) -> Path | None:
    """The file of the module in "module.instance" when it lies in ``folder``: a .py file or a package."""
    if not _DOTTED.fullmatch(name) or len(name) > 200:
        return None
    base = folder.joinpath(*name.split(".")[:-1])
    for found in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if found.is_file():
            return found
    return None


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from _texts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value)


def _code_beside(folder: Path) -> Iterator[Path]:
    """Modules in ``folder`` and whole packages: one module imports another without the YAML file knowing."""
    count = 0
    for found in sorted(folder.iterdir()):
        if found.suffix == ".py" and found.is_file():
            inside: Iterable[Path] = [found]
        elif found.is_dir() and (found / "__init__.py").is_file():
            inside = (p for p in sorted(found.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
        else:
            continue
        for file in inside:
            count += 1
            if count > MOST_MODULES:
                return
            yield file


def _with_targets(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        try:
            target = path.resolve()
        except (OSError, RuntimeError):
            continue
        if target != path:
            yield target
