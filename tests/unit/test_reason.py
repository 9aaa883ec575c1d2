"""The end of a log as a reason that fits on one line."""

from ocd.supervisor.supervision.reason import reason_from


def test_a_traceback_gives_its_exception_and_the_place() -> None:
    lines = [
        "INFO: starting",
        "Traceback (most recent call last):",
        '  File "/x/proxy_cli.py", line 9, in main',
        "    run()",
        '  File "/home/u/.config/ocd/hooks.py", line 3, in <module>',
        "    import nothing_here",
        "    ^^^^^^^^^^^^^^^^^^^",
        "ModuleNotFoundError: No module named 'nothing_here'",
    ]
    reason = reason_from(lines)
    assert reason.startswith("ModuleNotFoundError: No module named 'nothing_here'")
    assert "hooks.py" in reason and "line 3" in reason and "run()" not in reason


def test_plain_lines_are_kept_in_order_and_bounded() -> None:
    assert reason_from([f"line {i}" for i in range(40)]).endswith("line 38 | line 39")
    assert len(reason_from(["x" * 5000])) <= 600
    assert reason_from([]) == ""


def test_of_a_long_chain_the_users_own_place_is_shown_and_no_noise() -> None:
    lines = [
        "ERROR:    Traceback (most recent call last):",
        '  File "/venv/starlette/routing.py", line 694, in lifespan',
        "    async with self.lifespan_context(app) as maybe_state:",
        '  File "/state/revisions/main/x/oauth_passthrough.py", line 17, in <module>',
        "    VALUE = table['missing']",
        '  File "/venv/some/table.py", line 3, in __getitem__',
        "    raise KeyError(name)",
        "KeyError: 'missing'",
        "",
        "During handling of the above exception, another exception occurred:",
        "Traceback (most recent call last):",
        '  File "/venv/litellm/proxy/utils.py", line 99, in get_instance_fn',
        "    raise e",
        "ImportError: Could not import proxy_handler_instance",
        "\x1b[31mERROR:    Application startup failed. Exiting.\x1b[0m",
    ]
    assert reason_from(lines, ("/state/revisions/main/x/",)) == (
        "ImportError: Could not import proxy_handler_instance | "
        'File "/state/revisions/main/x/oauth_passthrough.py", line 17, in <module>'
    )
    assert reason_from(lines).endswith('File "/venv/litellm/proxy/utils.py", line 99, in get_instance_fn')


def test_the_place_outlasts_a_long_message_and_credentials_do_not() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "/own/a.py", line 1, in <module>',
        "ValueError: postgresql://litellm:pass-word@localhost/x " + "y" * 900,
    ]
    reason = reason_from(lines, ("/own/",))
    assert reason.endswith('| File "/own/a.py", line 1, in <module>') and len(reason) <= 600
    assert "pass-word" not in reason and "postgresql://litellm:***@localhost/x" in reason
