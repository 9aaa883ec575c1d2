"""ocd.toml and the environment: what counts, and what each mistake says."""

import inspect
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.settings.describe import fields_below, render_document, render_template, section_of, tables
from ocd.settings.folders import Folders
from ocd.settings.load import LARGEST, ConfigError, load
from ocd.settings.schema import Settings
from ocd.settings.tomllines import lines_of_keys


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    # The user's AWS files decide what is left open: here they say what the defaults say.
    (tmp_path / "home" / ".aws").mkdir(parents=True)
    (tmp_path / "home" / ".aws" / "config").write_text("[profile openclaude]\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = tmp_path / "config"
    config.mkdir()
    return Folders(config, tmp_path / "share", tmp_path / "state", tmp_path / "run", tmp_path / "bin")


def write(folders: Folders, text: str | bytes) -> Path:
    path = folders.config / "ocd.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def mistakes(folders: Folders, text: str | bytes = "", environ: dict[str, str] | None = None) -> list:
    write(folders, text)
    with pytest.raises(ConfigError) as caught:
        load(folders, environ or {})
    assert caught.value.exit_code == 78
    return caught.value.findings


def test_no_file_means_the_defaults(folders: Folders) -> None:
    settings = load(folders, {})
    assert settings == Settings()
    assert settings.ports() == {"main": 4000, "bedrock": 4001}
    assert (settings.aws_profile, settings.aws_region) == ("openclaude", "us-west-2")
    assert settings.proxy("bedrock").config == "litellm-bedrock.yaml"


def test_the_environment_beats_the_file(folders: Folders) -> None:
    write(folders, "port = 5000\n[logs]\nlevel = 'debug'\nkeep = 2\n")
    settings = load(
        folders, {"OCD_LOGS__LEVEL": "error", "OCD_PROXIES__MAIN__SPARE": "false", "OCD_PORT": ""}
    )
    assert settings.port == 5000
    assert (settings.logs.level, settings.logs.keep) == ("error", 2)
    assert settings.proxies.main.spare is False and settings.proxies.bedrock.spare is True


def test_the_seeds_variables_keep_their_meaning(folders: Folders) -> None:
    write(folders, "port = 5000\naws_profile = 'file'\n")
    environ = {
        "OPENCLAUDE_AWS_PROFILE": "work",
        "OPENCLAUDE_AWS_REGION": "eu-west-1",
        "OPENCLAUDE_LITELLM_PORT": "6000",
    }
    settings = load(folders, environ)
    assert (settings.aws_profile, settings.aws_region) == ("work", "eu-west-1")
    assert settings.ports() == {"main": 6000, "bedrock": 6001}
    assert load(folders, {**environ, "OCD_PORT": "7000"}).port == 7000
    assert load(folders, dict.fromkeys(environ, "")).aws_profile == "file"


def test_lists_and_tables_come_as_json(folders: Folders) -> None:
    environ = {
        "OCD_LITELLM__ARGS": '["--debug"]',
        "OCD_PROXIES__MAIN__ENV": '{"DATABASE_URL": "postgres://x:hush@y"}',
    }
    settings = load(folders, environ)
    assert settings.litellm.args == ["--debug"]
    assert settings.proxies.main.env["DATABASE_URL"].get_secret_value() == "postgres://x:hush@y"
    assert "hush" not in repr(settings) and "hush" not in settings.model_dump_json()


@pytest.mark.parametrize(
    "name", ["OCD_PREFIX", "OCD_CONFIG_DIR", "OCD_RUNTIME_DIR", "OCD_TEST_SCALE", "OCD_MAIN_KEY"]
)
def test_variables_that_are_no_settings_are_left_alone(folders: Folders, name: str) -> None:
    assert load(folders, {name: "x"}) == Settings()


@pytest.mark.parametrize(
    ("text", "line", "key", "part"),
    [
        ("# c\nprot = 1\n", 2, "prot", "Did you mean port?"),
        ("[logs]\n\nlevl = 'info'\n", 3, "logs.levl", "Did you mean level?"),
        ("[logs]\nport = 4000\n", 2, "logs.port", "above the first [section]"),
        ("drain_timeout = 3\n", 1, "drain_timeout", "under [supervision]"),
        ("port = '4000'\n", 1, "port", "a whole number from 1 to 65534, found '4000'"),
        ("port = 0\n", 1, "port", "a whole number from 1 to 65534, found 0"),
        ("port = true\n", 1, "port", "a whole number"),
        ("port = 4001\nbedrock_port = 4001\n", 2, "bedrock_port", "the same port"),
        ("bedrock_port = 65536\n", 1, "bedrock_port", "from 1 to 65535"),
        ("\nlogs = 3\n", 2, "logs", "a section: [logs]"),
        ("auth = 'token'\n", 1, "auth", 'one of "plan", "api-key"'),
        ("[supervision]\nstart_timeout = -1\n", 2, "supervision.start_timeout", "above 0"),
        ("[supervision]\nstart_timeout = nan\n", 2, "supervision.start_timeout", "a number"),
        ("[proxies.main]\nworkers = 33\n", 2, "proxies.main.workers", "from 1 to 32"),
        ("[proxies.main]\nspare = 'no'\n", 2, "proxies.main.spare", "true or false"),
        ("[proxies.main.env]\n\nAWS_PROFILE = 'x'\n", 1, "proxies.main.env", "AWS_PROFILE is refused here"),
        (
            "[proxies.bedrock]\nenv = {ANTHROPIC_API_KEY = 'x'}\n",
            2,
            "proxies.bedrock.env",
            "ANTHROPIC_API_KEY",
        ),
        ("[proxies.bedrock.env]\nOCD_MAIN_KEY = 'x'\n", 1, "proxies.bedrock.env", "set by ocd itself"),
        ("litellm.args = ['a', 3]\n", 1, "litellm.args", "a list of texts"),
        ("proxies = [1]\n", 1, "proxies", "a section"),
    ],
)
def test_a_mistake_names_line_key_and_what_was_expected(
    folders: Folders, text: str, line: int, key: str, part: str
) -> None:
    (finding,) = mistakes(folders, text)
    assert (finding.file, finding.line, finding.key) == (str(folders.config / "ocd.toml"), line, key)
    assert part in finding.sentence()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("OCD_PORT", "abc", "port: expected a whole number from 1 to 65534, found 'abc'"),
        ("OPENCLAUDE_LITELLM_PORT", "40x", "port: expected a whole number"),
        ("OCD_LOGS__LEVL", "info", "Did you mean level?"),
        ("OCD_LITELLM__ARGS", "--x", "not JSON"),
        ("OCD_LOGS", "{", "not JSON"),
        ("OCD_BOUNDARY__ADMIN", "perhaps", "true or false"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(
    folders: Folders, name: str, value: str, part: str
) -> None:
    (finding,) = mistakes(folders, "port = 4000\n", {name: value})
    assert (finding.file, finding.line) == (name, None)
    assert part in finding.sentence()


def test_all_mistakes_come_at_once_in_the_order_of_the_file(folders: Folders) -> None:
    found = mistakes(folders, "prot = 1\nauth = 2\n[logs]\nkeep = -1\n")
    assert [f.line for f in found] == [1, 2, 4]


def test_a_secret_is_never_quoted(folders: Folders) -> None:
    found = mistakes(
        folders, "[proxies.main.env]\nDATABASE_URL = ['hush']\nAWS_SECRET_ACCESS_KEY = 'hush'\nB = 7\n"
    )
    assert found and not any("hush" in f.sentence() for f in found)
    found = mistakes(folders, "", {"OCD_PROXIES__MAIN__ENV": '{"A": "hush'})
    assert not any("hush" in f.sentence() for f in found)


@pytest.mark.parametrize(
    ("raw", "code", "line"),
    [
        (b"port = \n", "toml-syntax", 1),
        (b"port = 1\n\nx = 'open", "toml-syntax", 3),
        (b"[logs\n", "toml-syntax", 1),
        (b"port = 4000\n# caf\xe9\n", "file-not-utf8", 2),
        (b"#" * (LARGEST + 1), "file-too-large", None),
        (b"x = " + b"[" * 5000, "toml-syntax", None),
    ],
    ids=["value", "end", "header", "latin-1", "huge", "deep"],
)
def test_bytes_that_are_no_settings(folders: Folders, raw: bytes, code: str, line: int | None) -> None:
    (finding,) = mistakes(folders, raw)
    assert (finding.code, finding.line) == (code, line)


def test_a_folder_in_the_files_place(folders: Folders) -> None:
    (folders.config / "ocd.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load(folders, {})
    assert caught.value.findings[0].code == "file-is-folder"


def test_a_pipe_in_the_files_place_does_not_hang(folders: Folders) -> None:
    os.mkfifo(folders.config / "ocd.toml")
    with pytest.raises(ConfigError) as caught:
        load(folders, {})
    assert caught.value.findings[0].code == "file-not-plain"


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_file(folders: Folders) -> None:
    write(folders, "").chmod(0)
    with pytest.raises(ConfigError) as caught:
        load(folders, {})
    assert "chmod u+r" in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"\xef\xbb\xbfport = 4000\n", b"port = 4000\r\n"])
def test_empty_files_and_other_editors_files(folders: Folders, raw: bytes) -> None:
    write(folders, raw)
    assert load(folders, {}) == Settings()


def test_the_template_is_made_from_the_descriptions_and_names_every_key(folders: Folders) -> None:
    from ocd.stack.defaults import template

    text = template("ocd.toml")
    assert text == render_template(), "run `python -m ocd.settings.describe`"
    write(folders, text)
    assert load(folders, {}) == Settings()
    import tomllib

    uncommented = tomllib.loads(
        "\n".join(
            line[1:] if line.startswith("#") and line[1:2] != " " else line for line in text.splitlines()
        )
    )
    for path in fields_below():
        here = uncommented
        for part in path:
            assert part in here, path
            here = here[part]


def test_every_key_is_described() -> None:
    for table in tables():
        for entry in table.entries:
            assert entry.description and entry.kind != "a value", entry.key


def test_lines_survive_strings_arrays_and_comments() -> None:
    text = 'a = """\n[x]\nb = 1\n"""\nc = [ # ]\n  1,\n]\n["q.r".s]\n'
    text += "d.e = '#' # [y]\n\n\nf = {g = 1}\n[[l]]\nm = 1\n"
    lines = lines_of_keys(text)
    assert lines == {
        ("a",): 1, ("c",): 5, ("q.r",): 8, ("q.r", "s"): 8, ("q.r", "s", "d"): 9, ("q.r", "s", "d", "e"): 9,
        ("q.r", "s", "f"): 12, ("l",): 13, ("l", "m"): 14,
    }  # fmt: skip


_PIECES = ["a = 1", "[t]", "b = '''\nz = 1\n'''", "# [c]", "", 'd = "]"', "e = [\n1\n]", "=", "["]


@given(
    st.lists(
        st.sampled_from(_PIECES),
        max_size=12,
    )
)
def test_finding_lines_ends_on_any_text(parts: list[str]) -> None:
    lines_of_keys("\n".join(parts))


def test_sections_are_sections() -> None:
    assert section_of(Settings.model_fields["logs"]) is not None
    assert section_of(Settings.model_fields["port"]) is None


def test_descriptions_are_the_same_on_every_python() -> None:
    """From 3.13 on the compiler takes the indentation of docstrings away; before that it is ours to do."""
    for table in tables():
        assert table.description == inspect.cleandoc(table.description)


def test_the_document_is_made_from_the_descriptions() -> None:
    document = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert document.read_text(encoding="utf-8") == render_document(), "run `python -m ocd.settings.describe`"
