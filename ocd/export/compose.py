"""Docker Compose, and Docker Swarm: one server behind the engine's own network, its secrets from the engine's store."""

import hashlib
from typing import Literal

from ocd.export.deployment import (
    CONFIG,
    LITELLM_FILE,
    MEMORY,
    METRICS,
    MOST_MEMORY,
    PORT,
    SETTINGS_FILE,
    STATE,
    USER,
    Deployment,
    flow,
)

STACK = "ocd-team"
POSTGRES = "docker.io/library/postgres:17"
HAPROXY = "docker.io/library/haproxy:3.0"
_HOW = {
    "compose": f"""\
#   mkdir -m 0700 secrets        the files named below under `secrets:`, each readable for user {USER} alone:
#                                chown {USER} secrets/*; chmod 0400 secrets/*
#   docker compose up -d
#
# Compose replaces a container by ending it first; its answers are finished, and new requests find the others.
""",
    "swarm": f"""\
#   docker secret create ocd_team_database_url -        and the others below under `secrets:`
#   docker stack deploy -c stack.yaml {STACK}
#
# A new version is started and ready before an old one is told to finish; one that does not get ready is rolled back.
""",
}


def compose(made: Deployment) -> dict[str, str]:
    """``compose.yaml`` and the files beside it. Several replicas stand behind HAProxy, which has no key."""
    front = made.replicas > 1
    files = _files(made)
    if front:
        files["haproxy.cfg"] = _haproxy(made)
    configs = {SETTINGS_FILE: "settings", LITELLM_FILE: "litellm"} | (
        {"haproxy.cfg": "front"} if front else {}
    )
    parts = [
        f"# A team's server, made by `occtl export compose`. docs/team.md says more.\n#\n{_HOW['compose']}",
        f"name: {STACK}\n\nservices:\n",
        _server(made, "compose"),
        _front() if front else "",
        _postgres("compose") if made.postgres else "",
        "\nconfigs:\n",
        *(f"  {name}:\n    file: ./{file}\n" for file, name in configs.items()),
        "\nsecrets:\n",
        *(f"  {name}:\n    file: ./secrets/{name}\n" for name in _secrets(made)),
        "\nvolumes:\n  database: {}\n" if made.postgres else "",
    ]
    return {
        "compose.yaml": "".join(parts),
        **files,
        "prometheus.yml": _prometheus("server"),
        ".gitignore": "secrets/\n",
    }


def swarm(made: Deployment) -> dict[str, str]:
    """``stack.yaml`` and the files beside it."""
    files = _files(made)
    configs = {SETTINGS_FILE: "settings", LITELLM_FILE: "litellm"}
    parts = [
        f"# A team's server, made by `occtl export swarm`. docs/team.md says more.\n#\n{_HOW['swarm']}",
        'version: "3.8"\n\nservices:\n',
        _server(made, "swarm"),
        _postgres("swarm") if made.postgres else "",
        "\n# Swarm's configs cannot be changed: another content is another name.\nconfigs:\n",
        *(
            f"  {name}:\n    name: ocd_team_{name}_{hashlib.sha256(files[file].encode()).hexdigest()[:12]}\n"
            f"    file: ./{file}\n"
            for file, name in configs.items()
        ),
        "\nsecrets:\n",
        *(f"  {name}:\n    external: true\n    name: ocd_team_{name}\n" for name in _secrets(made)),
        "\nnetworks:\n  inside:\n    driver: overlay\n",
        "\nvolumes:\n  database: {}\n" if made.postgres else "",
    ]
    return {"stack.yaml": "".join(parts), **files, "prometheus.yml": _prometheus(f"tasks.{STACK}_server")}


def _files(made: Deployment) -> dict[str, str]:
    return {SETTINGS_FILE: made.toml, LITELLM_FILE: made.litellm}


def _secrets(made: Deployment) -> list[str]:
    return [
        "database_url",
        *(["tls_cert", "tls_key"] if made.tls else []),
        *(["aws_credentials"] if made.identity == "file" else []),
        *(["database_password"] if made.postgres else []),
    ]


def _server(made: Deployment, engine: Literal["compose", "swarm"]) -> str:
    swarm = engine == "swarm"
    secrets = [name for name in _secrets(made) if name != "database_password"]
    words = made.command("/run/secrets/tls_cert", "/run/secrets/tls_key")
    host = 443 if made.tls else PORT
    # What Swarm's stack files have no words for is not in them: `docker stack deploy` says so at each run.
    owner = f', uid: "{USER}", gid: "{USER}", mode: 0400' if swarm else ""
    lines = [
        "  server:",
        f"    image: {made.image}",
        f"    command: {flow(words)}",
        "    environment:",
        "      # an address with a password, in a file: sqlite or postgresql://USER:PASSWORD@HOST/DATABASE",
        "      OCD_TEAM_DATABASE_FILE: /run/secrets/database_url",
        "    configs:",
        f"      - {{source: settings, target: {CONFIG}/{SETTINGS_FILE}}}",
        f"      - {{source: litellm, target: {CONFIG}/{LITELLM_FILE}}}",
        "    secrets:",
        *(f"      - {{source: {name}, target: {name}{owner}}}" for name in secrets),
        f"    # answers end for {made.drain} seconds (--drain); the engine waits longer than that",
        f"    stop_grace_period: {made.grace}s",
        "    healthcheck:",
        f"      test: {flow(['CMD', *made.check()])}",
        "      interval: 5s",
        "      timeout: 5s",
        "      retries: 6",
        "      start_period: 120s",
        "    read_only: true",
        *_scratch(swarm),
        "    cap_drop: [ALL]",
    ]
    if swarm or made.replicas == 1:
        lines += ["    ports:", f"      - {{target: {PORT}, published: {host}, protocol: tcp}}"]
    if swarm:
        lines += ["    networks: [inside]"]
    else:
        lines += ["    security_opt: [no-new-privileges:true]", "    restart: unless-stopped"]
        if made.postgres:
            lines += ["    depends_on:", "      postgres: {condition: service_healthy}"]
    lines += [
        "    logging:",
        "      driver: json-file",
        '      options: {max-size: "10m", max-file: "5"}',
        "    deploy:",
        f"      replicas: {made.replicas}",
        "      resources:",
        f"        reservations: {{memory: {MEMORY}M}}",
        f"        limits: {{memory: {MOST_MEMORY}M}}",
    ]
    if swarm:
        lines += [
            "      labels: {prometheus-job: ocd-team}",
            "      update_config:",
            "        {order: start-first, parallelism: 1, delay: 5s, monitor: 30s, failure_action: rollback}",
            "      rollback_config: {order: start-first, parallelism: 1}",
            "      restart_policy: {condition: any, delay: 5s}",
        ]
    return "\n".join(lines) + "\n"


def _scratch(swarm: bool) -> list[str]:
    """What may be written to. `docker stack deploy` passes over `tmpfs:`, and Compose's has the owner's words."""
    if not swarm:
        return [f"    tmpfs: {flow(['/tmp', f'{STATE}:mode=0700,uid={USER},gid={USER}'])}"]
    size = 256 << 20
    return [
        "    volumes:",
        *(f"      - {{type: tmpfs, target: {path}, tmpfs: {{size: {size}}}}}" for path in ("/tmp", STATE)),
    ]


def _front() -> str:
    return f"""\
  # A port of the host belongs to one container; this one spreads connections over the replicas, unread.
  front:
    image: {HAPROXY}
    configs:
      - {{source: front, target: /usr/local/etc/haproxy/haproxy.cfg}}
    ports:
      - {{target: {PORT}, published: 443, protocol: tcp}}
    restart: unless-stopped
    read_only: true
    cap_drop: [ALL]
    security_opt: [no-new-privileges:true]
    depends_on: [server]
    deploy:
      resources:
        limits: {{memory: 256M}}
"""


def _haproxy(made: Deployment) -> str:
    tls = "check-ssl verify none " if made.tls else ""
    return f"""\
# Connections to the replicas of `server`, by name from Docker's DNS. A replica that is not ready gets no new ones.
global
  log stdout format raw local0

defaults
  mode tcp
  log global
  option dontlognull
  timeout connect 5s
  # as long as an answer may be silent
  timeout client 1h
  timeout server 1h

resolvers docker
  nameserver dns 127.0.0.11:53
  hold valid 5s

frontend team
  bind :{PORT}
  default_backend servers

backend servers
  balance leastconn
  option httpchk GET /health/readiness
  # One that does not take the connection: the next try goes to another.
  option redispatch 1
  default-server check {tls}inter 2s fall 2 rise 1 resolvers docker init-addr none
  server-template server {max(made.replicas * 2, 4)} server:{PORT}
"""


def _postgres(engine: Literal["compose", "swarm"]) -> str:
    lines = [
        "  postgres:",
        f"    image: {POSTGRES}",
        "    environment:",
        "      POSTGRES_USER: ocd",
        "      POSTGRES_DB: ocd",
        "      POSTGRES_PASSWORD_FILE: /run/secrets/database_password",
        "    # database_url is then postgresql://ocd:PASSWORD@postgres/ocd",
        "    secrets: [database_password]",
        "    volumes:",
        "      - database:/var/lib/postgresql/data",
        "    healthcheck:",
        '      test: ["CMD", "pg_isready", "--username", "ocd"]',
        "      interval: 5s",
        "      retries: 12",
        "    stop_grace_period: 60s",
    ]
    if engine == "swarm":
        lines += [
            "    networks: [inside]",
            "    deploy:",
            "      # where the volume is: docker node update --label-add ocd.database=true NODE",
            "      placement: {constraints: [node.labels.ocd.database == true]}",
        ]
    else:
        lines += ["    restart: unless-stopped"]
    return "\n".join(lines) + "\n"


def _prometheus(name: str) -> str:
    return f"""\
# For a Prometheus in the same network as the servers: each of them is asked.
scrape_configs:
  - job_name: ocd-team
    dns_sd_configs:
      - names: [{name}]
        type: A
        port: {METRICS}
        refresh_interval: 15s
"""
