"""The end of a log as a reason that fits on one line."""

from ocd.supervisor.unit import reason_from


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
