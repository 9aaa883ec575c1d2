"""Custom code that a file names: can it be imported, is the instance there, what does it do with keys?

The code is parsed, never run.
"""

import ast
import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocd.settings.findings import Finding
from ocd.stack.inputs import module_file
from ocd.stack.litellm_file import LiteLLMFile, Where
from ocd.stack.stack import Stack, found, routes

_LISTS = ("callbacks", "success_callback", "failure_callback", "audit_log_callbacks")
_SINGLE = (
    "custom_auth", "custom_key_generate", "custom_key_update", "custom_key_policy", "custom_sso",
    "custom_team_metadata_validate", "custom_ui_sso_sign_in_handler",
)  # fmt: skip
#: bytes of a module that is parsed
LARGEST = 1 << 20


def _forms(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        for key in _LISTS:
            value = file.section("litellm_settings").get(key)
            at = ("litellm_settings", key)
            if isinstance(value, str) and value:
                broken = key != "callbacks"
                yield found(
                    "error" if broken else "warning",
                    "callbacks-not-a-list",
                    file,
                    at,
                    "LiteLLM takes the text letter by letter"
                    if broken
                    else "as a text it replaces LiteLLM's own callbacks, or is never called in some versions",
                    f"Write `{key}: [{value}]`",
                    (at, [value]),
                )
            elif value is not None and not isinstance(value, list | str):
                yield found(
                    "error",
                    "callbacks-not-a-list",
                    file,
                    at,
                    "a list of names is expected",
                    f"Write `{key}: [module.instance]`",
                )


def _named(file: LiteLLMFile) -> Iterator[tuple[Where, str]]:
    settings, general = file.section("litellm_settings"), file.section("general_settings")
    for key in (*_LISTS, "post_call_rules"):
        value: Any = settings.get(key)
        if isinstance(value, str):
            yield ("litellm_settings", key), value
        for index, name in enumerate(value if isinstance(value, list) else []):
            if isinstance(name, str):
                yield ("litellm_settings", key, index), name
    handlers = settings.get("custom_provider_map")
    for index, entry in enumerate(handlers if isinstance(handlers, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("custom_handler"), str):
            at: Where = ("litellm_settings", "custom_provider_map", index, "custom_handler")
            yield at, entry["custom_handler"]
    for key in _SINGLE:
        if isinstance(general.get(key), str):
            yield ("general_settings", key), general[key]


def _modules(stack: Stack) -> Iterator[Finding]:
    for proxy, file in stack.files():
        seen: set[Path] = set()
        for where, name in _named(file):
            if "." not in name or "://" in name:
                continue
            path = module_file(name, file.path.parent)
            if path is None:
                yield from _elsewhere(stack, file, where, name)
                continue
            tree, trouble = _parse(path)
            if tree is None:
                yield Finding(
                    "error",
                    "callback-broken",
                    str(path),
                    trouble[0],
                    "",
                    f"{name} cannot be imported: {trouble[1]}",
                    "Correct the module",
                )
                continue
            yield from _instance(file, where, name, path, tree)
            if path not in seen:
                seen.add(path)
                yield from _imports(stack, path, tree)
                yield from _keys(stack, proxy, path, tree)


def _elsewhere(stack: Stack, file: LiteLLMFile, where: Where, name: str) -> Iterator[Finding]:
    top = name.split(".")[0]
    if stack.site is None or top in sys.stdlib_module_names or _installed(stack.site, top):
        return
    module = name.rpartition(".")[0]
    yield found(
        "error",
        "callback-not-found",
        file,
        where,
        f"there is no module {module} beside {file.path.name} and none in LiteLLM's environment: "
        "LiteLLM does not start",
        f"Put {module.replace('.', '/')}.py beside {file.path.name}",
    )


def _installed(site: Path, top: str) -> bool:
    return (
        (site / top).is_dir()
        or (site / f"{top}.py").is_file()
        or any(site.glob(f"{top}.*.so"))
        or
        # namespace of an editable install: not for us to resolve
        any(site.glob("__editable__*"))
    )


def _parse(path: Path) -> tuple[ast.Module | None, tuple[int | None, str]]:
    try:
        raw = path.read_bytes()
        if len(raw) > LARGEST:
            return None, (None, "the file is too large")
        return ast.parse(raw), (None, "")
    except SyntaxError as error:
        return None, (error.lineno, error.msg)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return None, (None, str(error)[:100] or type(error).__name__)


def _instance(file: LiteLLMFile, where: Where, name: str, path: Path, tree: ast.Module) -> Iterator[Finding]:
    wanted = name.rpartition(".")[2]
    bound = dict(_bound(tree.body))
    if "*" in bound or "__getattr__" in bound:
        return
    node = bound.get(wanted)
    if node is None:
        classes = [n for n in bound if isinstance(bound[n], ast.ClassDef)]
        hint = (
            f"Add `{wanted} = {classes[-1]}()` at the end of {path.name}"
            if classes
            else f"Define it in {path.name}"
        )
        yield found(
            "error",
            "callback-no-instance",
            file,
            where,
            f"{path.name} has no {wanted}: LiteLLM does not start",
            hint,
        )
    elif isinstance(node, ast.ClassDef) and where[1] in _LISTS:
        yield found(
            "error",
            "callback-no-instance",
            file,
            where,
            f"{wanted} is a class (line {node.lineno} of {path.name}), LiteLLM needs an instance of it",
            f"Add `handler = {wanted}()` at the end of {path.name} and name that",
        )


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that a module's own statements bind, also inside if, try and with."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name.split(".")[0]), node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for inner in ast.walk(target):
                    if isinstance(inner, ast.Name):
                        yield inner.id, node
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)


def _imports(stack: Stack, path: Path, tree: ast.Module) -> Iterator[Finding]:
    if stack.site is None:
        return
    for node in tree.body:
        if isinstance(node, ast.Import):
            tops = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            tops = [node.module.split(".")[0]]
        else:
            continue
        for top in tops:
            beside = path.parent / top
            known = top in sys.stdlib_module_names or top in dir(builtins) or _installed(stack.site, top)
            if not known and not beside.with_name(f"{top}.py").is_file() and not beside.is_dir():
                yield Finding(
                    "error",
                    "callback-import",
                    str(path),
                    node.lineno,
                    "",
                    f"{top} is not installed in LiteLLM's environment: the module cannot be imported",
                    f"Install {top} there, or do without it",
                )


def _keys(stack: Stack, proxy: str, path: Path, tree: ast.Module) -> Iterator[Finding]:
    file = stack.main if proxy == "main" else stack.bedrock
    mixed = proxy == "bedrock" or any(route.provider != "anthropic" for route in routes(file))
    for node, name, guarded in _assigned_keys(tree, False):
        if name == "api_key":
            yield Finding(
                "error" if mixed and not guarded else "warning",
                "callback-sets-api-key",
                str(path),
                node.lineno,
                "",
                "the key is set for every provider: the plan's login goes to "
                "Bedrock or to the second proxy too",
                "Remove the callback: LiteLLM forwards the login by itself",
            )
        else:
            yield Finding(
                "warning",
                "callback-sets-api-key",
                str(path),
                node.lineno,
                "",
                "LiteLLM does not know anthropic_api_key: requests fail, or fall back to Bedrock unseen",
                "Remove the callback: LiteLLM forwards the login by itself",
            )


def _assigned_keys(node: ast.AST, guarded: bool) -> Iterator[tuple[ast.expr | ast.stmt, str, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = guarded or isinstance(child, ast.If)
        if isinstance(child, ast.Assign):
            for target in child.targets:
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    name = target.slice.value
                    if name in ("api_key", "anthropic_api_key"):
                        yield child, str(name), guarded
        elif isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            yield from ((child, name, guarded) for name in _call_keys(child))
        yield from _assigned_keys(child, inside)


def _call_keys(call: ast.Call) -> Iterator[str]:
    wanted = ("api_key", "anthropic_api_key")
    attribute = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if attribute == "update":
        yield from (str(k.arg) for k in call.keywords if k.arg in wanted)
        for argument in call.args:
            if isinstance(argument, ast.Dict):
                yield from (
                    str(k.value) for k in argument.keys if isinstance(k, ast.Constant) and k.value in wanted
                )
    elif attribute == "setdefault" and call.args and isinstance(call.args[0], ast.Constant):
        name = call.args[0].value
        if name in wanted:
            yield str(name)


RULES = (_forms, _modules)
