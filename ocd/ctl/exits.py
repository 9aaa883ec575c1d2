"""The exit codes of the commands: one table, for ``occtl help exit-codes``, the man pages and the documents.

64 and up are those of sysexits(3), so that scripts can tell them apart from a program's own.
"""

#: (code, when)
EXITS: tuple[tuple[int, str], ...] = (
    (0, "done, or was so already"),
    (1, "selftest, litellm check: looked at, and something is wrong with it"),
    (3, "status, doctor, aws status, service status: something is not as it should be, or does not run"),
    (64, "wrong usage: an unknown command, option or name, a value that cannot be used"),
    (65, "a file is not in a form that can be changed"),
    (66, "what is asked for is not there: nothing to bring in, nothing to take back"),
    (69, "the daemon, a proxy or a program that is needed does not run"),
    (70, "a mistake of ours: please report it"),
    (71, "the operating system refused something"),
    (73, "a file cannot be made"),
    (74, "a file cannot be read or written"),
    (75, "not now: busy, or not within the time allowed; try again"),
    (76, "the daemon's answer cannot be understood: another version, or it broke off"),
    (77, "not allowed: a file, a folder or a socket belongs to somebody else"),
    (78, "the configuration is wrong"),
    (130, "ended by Ctrl-C"),
    (141, "whoever read the output has enough"),
)
