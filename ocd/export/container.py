"""The image: a Containerfile, and all that it copies. It needs a base image with Python, and a package index."""

from collections.abc import Mapping

from ocd.export import wheel
from ocd.export.deployment import CONFIG, METRICS, PORT, PYTHON, STATE, USER

#: Debian with the newest Python that all locked packages have wheels for
BASE = "docker.io/library/python:3.13-slim-bookworm"
LOCKS = ("team.txt", "litellm.txt")


def files(version: str, package: Mapping[str, bytes], locks: Mapping[str, bytes]) -> dict[str, bytes]:
    """``package``: the files of ocd, see ``wheel``; ``locks``: name → content of the requirement files of ``LOCKS``."""
    return {
        "Containerfile": _containerfile(version).encode(),
        ".dockerignore": b"*\n!requirements\n!*.whl\n",
        wheel.name(version): wheel.wheel(version, package),
        **{f"requirements/{one}": locks[one] for one in LOCKS},
    }


def _containerfile(version: str) -> str:
    pip = "-m pip install --no-cache-dir --disable-pip-version-check --no-deps"
    locked = f"{pip} --require-hashes --only-binary :all: -r"
    return f"""\
# A team's server, made by `occtl export container`.
#
#   docker build -t NAME -f Containerfile .          (or podman, buildah, kaniko)
#
# Another base: --build-arg BASE=…; it needs Python 3.11 to 3.14 with pip or python3-venv, and glibc 2.28.
# Another package index: --build-arg PIP_INDEX_URL=…; it stays in the first stage, and so out of the image.
# Every package is named by version and hash. No key, address or configuration is in the image.
ARG BASE={BASE}

FROM ${{BASE}} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements /build/requirements
# Two environments: LiteLLM's process has none of ours, and we none of LiteLLM's.
RUN python3 -m venv /opt/ocd/litellm \\
 && /opt/ocd/litellm/bin/python {locked} /build/requirements/litellm.txt \\
 && /opt/ocd/litellm/bin/python -m pip uninstall --yes --quiet pip setuptools
RUN python3 -m venv /opt/ocd/app \\
 && {PYTHON} {locked} /build/requirements/team.txt
COPY {wheel.name(version)} /build/
RUN {PYTHON} {pip} --no-index /build/{wheel.name(version)} \\
 && {PYTHON} -m pip uninstall --yes --quiet pip setuptools

FROM ${{BASE}}
COPY --from=build /opt/ocd /opt/ocd
# {STATE} and /tmp are all that is written to, and the root may be read-only. A tmpfs takes its mode from here.
RUN install -d -m 0755 {CONFIG} && install -d -m 1777 {STATE}
ENV PATH=/opt/ocd/app/bin:/usr/local/bin:/usr/bin:/bin \\
    HOME={STATE} \\
    LANG=C.UTF-8 \\
    PYTHONDONTWRITEBYTECODE=1 \\
    OCD_CONFIG_DIR={CONFIG} \\
    OCD_PREFIX={STATE}/server \\
    OCD_LITELLM__PYTHON=/opt/ocd/litellm/bin/python
USER {USER}:{USER}
WORKDIR {STATE}
EXPOSE {PORT} {METRICS}
STOPSIGNAL SIGTERM
# Ready once, and alive from then on: a database that is away for a minute is no reason to be killed.
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=6 \\
    CMD ["{PYTHON}", "-I", "-m", "ocd.team.ready", "{PORT}"]
# PID 1: takes the signals, finishes answers, reaps what loses its parent.
ENTRYPOINT ["{PYTHON}", "-I", "-m", "ocd", "serve", "--team"]
CMD ["--listen", "0.0.0.0:{PORT}", "--cert", "/run/secrets/tls_cert", "--key", "/run/secrets/tls_key"]
"""
