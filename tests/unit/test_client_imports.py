"""openclaude starts in milliseconds because it imports next to nothing; a fresh interpreter says what."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Every further name here is paid at each start of openclaude.
ALLOWED = {
    "ocd",
    "ocd.client",
    "ocd.client.__main__",
    "ocd.client.arguments",
    "ocd.client.asking",
    "ocd.client.variables",
} | {
    "ocd.errors",
    "ocd.paths",
    "_json",
    "_socket",
}


def _loaded(statement):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); {statement}\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.replace("'", '"')))


def test_the_hot_path_imports_only_these():
    loaded = _loaded("import ocd.client.__main__")
    builtin = {name for name in loaded if name in sys.builtin_module_names}
    standard = {"os", "stat", "posixpath", "genericpath", "_collections_abc", "os.path"}
    assert loaded - builtin - standard - ALLOWED == set()


def test_nothing_outside_the_standard_library_even_on_the_rare_paths():
    loaded = _loaded("import ocd.client.__main__, ocd.client.start, ocd.client.failure")
    tops = {name.partition(".")[0] for name in loaded}
    assert tops - set(sys.stdlib_module_names) == {"ocd"}
    own = {name for name in loaded if name.startswith("ocd")}
    assert own - ALLOWED == {"ocd.client.start", "ocd.client.failure"}
