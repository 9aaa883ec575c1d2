#!/bin/sh
# The newest Python that is here and newer than the oldest that we support, as a path; prints nothing where there is none.
for version in 3.14 3.13 3.12; do
    for python in "$(command -v "python$version")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if [ -x "$python" ] && "$python" -c 'import sqlite3, ssl, venv' 2>/dev/null; then
            echo "$python"
            exit
        fi
    done
done
