"""``occtl export``: what is in the files, and what running it again does to them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import stat
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from ocd.ctl.__main__ import main
from ocd.errors import OcdError
from ocd.export import compose, container, deployment, kubernetes, plan, wheel
from ocd.export.deployment import AFTER, LINGER, Deployment
from ocd.settings.load import parse
from ocd.settings.schema import Settings
from ocd.team import front, ready, serve

ROUTE = {"model_name": "haiku", "litellm_params": {"model": "bedrock/converse/qwen.qwen3"}}
LITELLM: dict[str, Any] = {
    "model_list": [ROUTE],
    "general_settings": {"master_key": "os.environ/OCD_BEDROCK_KEY"},
    "litellm_settings": {"drop_params": True},
}
ARN = "arn:aws:iam::123456789012:role/bedrock"


def yaml(text: str) -> Any:
    # as PyYAML and Go's libraries read it: 0400 is octal
    reader = YAML(typ="safe")
    reader.version = (1, 1)  # type: ignore[assignment]
    return reader.load(text)


def made(**more: Any) -> Deployment:
    text, _ = deployment.litellm(LITELLM)
    identity = more.get("identity", "file")
    given = {"image": "ocd-team:1", "litellm": text, "toml": deployment.toml(Settings(), identity, 600)}
    return Deployment(**{**given, **more})


WAYS = [
    made(),
    made(replicas=1),
    made(postgres=True, drain=7),
    made(tls=False, identity="instance"),
    made(identity="workload", role=ARN, replicas=5),
]


# ---------------------------------------------------------------------------------------------- the user's file


def test_the_file_arrives_as_it_is_read() -> None:
    odd = {
        **LITELLM,
        "router_settings": {
            "a": [],
            "b": {},
            "c": None,
            "d": 1.5,
            "e": "no",
            "f": "0x1f: # '\"\n{",
            "g": [[1, {"h": 2}]],
        },
    }
    text, left = deployment.litellm(odd)
    assert yaml(text) == odd and left == []


def test_a_profile_stays_behind() -> None:
    params = {"model": "bedrock/a", "aws_profile_name": "other"}
    ours = {"model": "bedrock/b", "aws_profile_name": "os.environ/OCD_AWS_PROFILE"}
    text, left = deployment.litellm(
        {
            "model_list": [
                {"model_name": "a", "litellm_params": params},
                {"model_name": "b", "litellm_params": ours},
            ]
        }
    )
    assert "aws_profile_name" not in text and "OCD_AWS_PROFILE" not in text
    assert len(left) == 1 and left[0].startswith("a: ")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"aws_secret_access_key": "abcdefgh"}, "export-secret"),
        ({"api_key": "whatever"}, "export-secret"),
        ({"note": "AKIAIOSFODNN7EXAMPLE"}, "export-secret"),
        ({"aws_session_token": "abcdefgh"}, "export-secret"),
        ({"extra_headers": {"Authorization": "Bearer abcdefghijkl"}}, "export-secret"),
        ({"extra": ["~/file"]}, "export-path"),
        ({"extra": "/home/ada/x.pem"}, "export-path"),
        ({"api_key": "os.environ/KEY", "max_tokens": "5", "input_cost_per_token": "1e-7"}, ""),
    ],
)
def test_neither_a_secret_nor_a_path_leaves_the_machine(value: dict[str, Any], code: str) -> None:
    data = {"model_list": [{"model_name": "a", "litellm_params": {"model": "bedrock/a", **value}}]}
    if not code:
        deployment.litellm(data)
        return
    with pytest.raises(OcdError) as raised:
        deployment.litellm(data)
    assert raised.value.code == code and "model_list[0].litellm_params" in raised.value.why
    assert not any(str(one) in str(raised.value) for one in value.values())


@pytest.mark.parametrize("identity", ["file", "workload", "instance"])
def test_the_settings_are_ones_that_ocd_takes(identity: Any, tmp_path: Path) -> None:
    own = parse(tmp_path, 'aws_region = "eu-central-1"\n[boundary]\nconfine = false\n', {})
    read = parse(tmp_path, deployment.toml(own, identity, 90), {})
    assert read.aws_region == "eu-central-1" and read.aws_profile == "" and not read.boundary.confine
    assert not read.proxies.main.enabled and read.supervision.drain_timeout == 90
    names = {
        "file": ["AWS_SHARED_CREDENTIALS_FILE"],
        "workload": [],
        "instance": ["AWS_EC2_METADATA_DISABLED"],
    }
    assert list(read.proxies.bedrock.env) == names[identity]


@pytest.mark.parametrize(("image", "role"), [("a b", ""), ("a\nb: c", ""), ("", "arn:x"), ("", ARN + "\n")])
def test_names_that_would_be_more_than_names_are_refused(image: str, role: str) -> None:
    deployment.checked("registry.example:5000/a/b:1.0", ARN)
    with pytest.raises(OcdError):
        deployment.checked(image, role)


# ---------------------------------------------------------------------------------------------------- all engines


def everything(one: Deployment) -> dict[str, str]:
    found = {f"compose/{k}": v for k, v in compose.compose(one).items()}
    found |= {f"swarm/{k}": v for k, v in compose.swarm(one).items()}
    return found | {f"kubernetes/{k}": v for k, v in kubernetes.kubernetes(one).items()}


@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_every_engine_waits_for_the_drain_and_starts_what_the_server_takes(one: Deployment) -> None:
    # what a server takes after the last answer: uvicorn's drain, bookings, the database's last words
    assert front.FIGURES + 1 + serve.LAST_WORDS <= AFTER
    assert one.grace == LINGER + one.drain + AFTER
    files = everything(one)
    for path in ("compose/compose.yaml", "swarm/stack.yaml"):
        service = yaml(files[path])["services"]["server"]
        assert service["stop_grace_period"] == f"{one.grace}s" and service["read_only"] is True
        assert service["cap_drop"] == ["ALL"] and service["deploy"]["replicas"] == one.replicas
        found = serve.arguments(["--team", *service["command"]])
        assert found.drain == one.drain and found.plain != one.tls
        assert found.listen.endswith(f":{deployment.PORT}")
        assert service["healthcheck"]["test"][1:] == one.check()
    pod = yaml(files["kubernetes/base/deployment.yaml"])["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == one.grace
    assert serve.arguments(["--team", *pod["containers"][0]["args"]]).drain == one.drain


@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_no_secret_and_nothing_of_this_machine_is_in_a_file(one: Deployment) -> None:
    from ocd.mask import mask

    for path, text in everything(one).items():
        assert text.endswith("\n") and str(Path.home()) + "/" not in text, path
        # made up values stand where a person writes theirs
        assert mask(text) == text or path.endswith(("compose.yaml", "stack.yaml")), path


def test_the_image_has_no_configuration_runs_as_nobody_and_takes_hashed_packages() -> None:
    locks = {name: b"a==1 --hash=sha256:00\n" for name in container.LOCKS}
    files = container.files("1.2", {"ocd/__init__.py": b"x"}, locks)
    text = files["Containerfile"].decode()
    assert files["requirements/team.txt"] == locks["team.txt"]
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert len(installs) == 3 and all("--no-deps" in one for one in installs)
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    final = text.rpartition("\nFROM ")[2]
    assert f"USER {deployment.USER}:{deployment.USER}" in final and "HEALTHCHECK" in final
    assert "ARG" not in final and "COPY --from=build" in final and final.count("COPY") == 1
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)[0])
    words = json.loads(re.findall(r"^CMD (.*)$", final, re.MULTILINE)[0])
    assert entry[-3:] == ["ocd", "serve", "--team"]
    serve.arguments([*entry[-1:], *words])
    copied = set(re.findall(r"^COPY (\S+) ", text, re.MULTILINE)) - {"--from=build"}
    assert copied == {"requirements", wheel.name("1.2")}


def test_a_wheel_is_the_same_bytes_and_whole() -> None:
    files = {"ocd/b.py": b"b", "ocd/a.py": "ä".encode()}
    packed = wheel.wheel("1.2", files)
    assert packed == wheel.wheel("1.2", dict(reversed(files.items())))
    archive = zipfile.ZipFile(io.BytesIO(packed))
    record = archive.read("openclaude_daemon-1.2.dist-info/RECORD").decode().splitlines()
    assert len(record) == len(archive.namelist())
    for line in record[:-1]:
        path, digest, size = line.split(",")
        content = archive.read(path)
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={found}", len(content))
    assert b"ocd.__main__:main" in archive.read("openclaude_daemon-1.2.dist-info/entry_points.txt")


# -------------------------------------------------------------------------------------------- Compose and Swarm


@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_what_a_service_names_is_there(one: Deployment) -> None:
    for file, files in (("compose.yaml", compose.compose(one)), ("stack.yaml", compose.swarm(one))):
        whole = yaml(files[file])
        for service in whole["services"].values():
            for kind in ("configs", "secrets"):
                used = {x if isinstance(x, str) else x["source"] for x in service.get(kind, [])}
                assert used <= set(whole[kind])
        for config in whole["configs"].values():
            assert config["file"].removeprefix("./") in files
        used_up = {
            x if isinstance(x, str) else x["source"]
            for s in whole["services"].values()
            for x in s.get("secrets", [])
        }
        assert used_up == set(whole["secrets"])
        assert ("postgres" in whole["services"]) == one.postgres == ("volumes" in whole)
        assert ("aws_credentials" in whole["secrets"]) == (one.identity == "file")
        assert ("tls_key" in whole["secrets"]) == one.tls
        yaml(files["prometheus.yml"])


def test_compose_has_a_front_for_more_than_one_and_a_port_for_one() -> None:
    several, single = compose.compose(made()), compose.compose(made(replicas=1))
    services = yaml(several["compose.yaml"])["services"]
    assert "ports" not in services["server"] and services["front"]["ports"][0]["published"] == 443
    assert "/health/readiness" in several["haproxy.cfg"] and "check-ssl" in several["haproxy.cfg"]
    assert "check-ssl" not in compose.compose(made(tls=False))["haproxy.cfg"]
    (server,) = yaml(single["compose.yaml"])["services"].values()
    assert server["ports"][0]["published"] == 443 and "haproxy.cfg" not in single


def test_swarm_starts_the_new_one_first_and_rolls_back() -> None:
    whole = yaml(compose.swarm(made())["stack.yaml"])
    server = whole["services"]["server"]
    update = server["deploy"]["update_config"]
    assert (update["order"], update["parallelism"], update["failure_action"]) == (
        "start-first",
        1,
        "rollback",
    )
    for secret in server["secrets"]:
        assert secret["uid"] == secret["gid"] == str(deployment.USER) and secret["mode"] == 0o400
    assert all(one["external"] for one in whole["secrets"].values())
    # `docker stack deploy` passes over `tmpfs:`
    assert {one["target"] for one in server["volumes"]} == {
        "/tmp",
        deployment.STATE,
    } and "tmpfs" not in server


def test_another_content_is_another_name_for_swarm() -> None:
    def name(one: Deployment) -> str:
        return str(yaml(compose.swarm(one)["stack.yaml"])["configs"]["settings"]["name"])

    assert name(made()) == name(made(replicas=7))
    assert name(made()) != name(made(toml="aws_region = 'x'\n"))


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_dockers_own_command_takes_the_stack(one: Deployment, tmp_path: Path) -> None:
    for path, text in compose.swarm(one).items():
        (tmp_path / path).write_text(text)
    words = ["docker", "stack", "config", "-c", "stack.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if "unknown" in done.stderr or "is not a docker command" in done.stderr:
        pytest.skip("this docker has no `stack config`")
    assert done.returncode == 0 and "unsupported" not in done.stderr.lower(), done.stderr


@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_compose_itself_takes_the_file(one: Deployment, tmp_path: Path) -> None:
    compose_command = ["docker", "compose"]
    if (
        not shutil.which("docker")
        or subprocess.run([*compose_command, "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    for path, text in compose.compose(one).items():
        (tmp_path / path).write_text(text)
    words = [*compose_command, "-f", "compose.yaml", "config", "--quiet"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------- Kubernetes


def manifests(one: Deployment) -> dict[str, Any]:
    files = kubernetes.kubernetes(one)
    base = {path.removeprefix("base/"): text for path, text in files.items() if path.startswith("base/")}
    top = yaml(base["kustomization.yaml"])
    assert set(top["resources"]) | set(top["configMapGenerator"][0]["files"]) | {"kustomization.yaml"} == set(
        base
    )
    assert yaml(files[kubernetes.OVERLAY])["resources"] == ["../../base"]
    found = [yaml(base[name]) for name in top["resources"]]
    return {one["kind"]: one for one in found}


@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_the_pod_is_restricted_and_updated_without_a_gap(one: Deployment) -> None:
    found = manifests(one)
    assert {kind: it["apiVersion"] for kind, it in found.items()} == {
        "ServiceAccount": "v1",
        "Deployment": "apps/v1",
        "Service": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
        "PodDisruptionBudget": "policy/v1",
    }
    spec = found["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = spec["template"]["spec"]
    (server,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["fsGroup"] == deployment.USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # a Service named ocd would set OCD_PORT, which is a setting of ours
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    scheme = "HTTPS" if one.tls else "HTTP"
    for probe, path in (
        ("readinessProbe", "readiness"),
        ("livenessProbe", "liveness"),
        ("startupProbe", "liveness"),
    ):
        ask = {"path": f"/health/{path}", "port": "team", "scheme": scheme}
        assert server[probe]["httpGet"] == ask
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in server["volumeMounts"]} == set(volumes)
    # The folder of a ConfigMap has mode 0777, which `ocd serve` refuses.
    assert all("subPath" in mount for mount in server["volumeMounts"] if mount["name"] == "config")
    secrets = {
        volume["secret"]["secretName"]: volume["secret"] for volume in volumes.values() if "secret" in volume
    }
    wanted = {"ocd-team-database", *(["ocd-team-tls"] if one.tls else [])}
    assert set(secrets) == wanted | ({"ocd-team-aws"} if one.identity == "file" else set())
    assert all(secret["defaultMode"] == 0o440 for secret in secrets.values())
    labels = spec["template"]["metadata"]["labels"]
    for selector in (
        spec["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    annotations = found["ServiceAccount"]["metadata"].get("annotations", {})
    assert annotations == ({"eks.amazonaws.com/role-arn": ARN} if one.role else {})


@pytest.mark.parametrize(("identity", "metadata"), [("file", 0), ("workload", 2), ("instance", 1)])
def test_the_network_policy_opens_names_bedrock_the_database_and_no_more(
    identity: str, metadata: int
) -> None:
    policy = manifests(made(identity=identity))["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = [tuple(port["port"] for port in rule["ports"]) for rule in policy["egress"]]
    assert ports == [(53, 53), (443,), (5432,), *([(80,)] if metadata else [])]
    https = policy["egress"][1]["to"]
    assert "169.254.0.0/16" in https[0]["ipBlock"]["except"]
    assert all(one["ipBlock"]["cidr"] not in ("0.0.0.0/0", "::/0") for one in policy["egress"][2]["to"])
    if metadata:
        assert len(policy["egress"][3]["to"]) == metadata
    assert policy["ingress"][1]["from"], "figures are not for everybody"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("one", WAYS, ids=range(len(WAYS)))
def test_kustomize_builds_the_overlay(one: Deployment, tmp_path: Path) -> None:
    for path, text in kubernetes.kubernetes(one).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    words = ["kubectl", "kustomize", "overlays/team"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "kind: ConfigMap" in done.stdout and done.stdout.count("\n---\n") == 5


# -------------------------------------------------------------------------------------------- running it again


def test_what_is_written_again_is_only_what_we_wrote() -> None:
    old, new = b"old", b"new"
    ours = {
        "a": plan.hash_of(old),
        "b": plan.hash_of(old),
        "gone": plan.hash_of(old),
        "gone2": plan.hash_of(old),
    }
    there = {
        "a": old,
        "b": b"by hand",
        "c": b"never ours",
        "gone": old,
        "gone2": b"by hand",
        "over/x": b"mine",
    }
    wanted = {"a": new, "b": new, "c": new, "d": new, "over/x": new}
    found = plan.plan(wanted, there, ours, once=("over/x",))
    assert set(found.write) == {"a", "b", "c", "d"} and set(found.remove) == {"gone", "gone2"}
    assert set(found.edited) == {"b", "c", "gone2"} and found.kept == ["over/x"]
    # removed by the user: not made again
    assert "over/x" not in plan.plan(wanted, {}, ours, once=("over/x",)).write


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b"])
def test_a_manifest_leads_out_of_the_folder_nowhere(path: str) -> None:
    said = json.dumps({"target": "swarm", "files": {path: "0", "fine": "1"}})
    assert plan.read(said.encode()) == ("swarm", {"fine": "1"})
    assert plan.read(b"[]") == plan.read(None) == plan.read(b'{"target": 1}') == ("", {})


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path / "ocd"))
    monkeypatch.delenv("OCD_CONFIG_DIR", raising=False)
    config = tmp_path / "ocd" / "config"
    config.mkdir(parents=True)
    # The main proxy's file is not there: nothing of it is exported.
    (config / "litellm-bedrock.yaml").write_text(json.dumps(LITELLM))
    return tmp_path


def export(*words: str) -> int:
    return main(["export", *words])


def test_from_the_first_export_to_the_next(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = prefix / "out"
    again = ("kubernetes", "--out", str(out))
    assert export(*again) == 64 and not out.exists()  # nobody can be asked
    assert export(*again, "--dry-run") == 0 and not out.exists()
    assert export(*again, "-y") == 0
    base, overlay = out / "base/deployment.yaml", out / "overlays/team/kustomization.yaml"
    assert stat.S_IMODE(base.stat().st_mode) == 0o644
    capsys.readouterr()
    assert export(*again) == 0 and "as it should be" in capsys.readouterr().out

    overlay.write_text(overlay.read_text() + "# mine\n")
    assert export(*again, "--replicas", "4", "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] == ["base/deployment.yaml"] and said["kept"] == [
        "overlays/team/kustomization.yaml"
    ]
    assert export(*again, "--replicas", "4", "-y") == 0
    shown = capsys.readouterr().out
    assert (
        "-  replicas: 2" in shown and "+  replicas: 4" in shown and overlay.read_text().endswith("# mine\n")
    )

    base.write_text(base.read_text().replace("replicas: 4", "replicas: 9"))
    assert export(*again, "-y") == 78 and "replicas: 9" in base.read_text()
    assert "base/deployment.yaml is your own work" in capsys.readouterr().err
    assert export(*again, "-y", "--force") == 0 and "replicas: 2" in base.read_text()
    assert main(["undo"]) in (0, 78) and "replicas: 9" in base.read_text()
    assert export("swarm", "--out", str(out), "-y") == 64


def test_a_file_that_no_server_would_serve_is_not_exported(
    prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {**LITELLM, "general_settings": {}}
    (prefix / "ocd/config/litellm-bedrock.yaml").write_text(json.dumps(wrong))
    assert export("swarm", "--out", str(prefix / "out"), "-y") == 78
    assert "master key" in capsys.readouterr().err and not (prefix / "out").exists()


def test_variables_of_the_proxy_are_named_and_not_written(
    prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prefix / "ocd/config/ocd.toml").write_text(
        '[proxies.bedrock.env]\nAWS_ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"\n'
    )
    assert export("swarm", "--out", str(prefix / "out"), "-y") == 0
    assert "AWS_ACCESS_KEY_ID" in capsys.readouterr().err
    texts = "".join(path.read_text() for path in (prefix / "out").iterdir())
    assert "AKIA" not in texts and str(prefix) not in texts


def test_the_image_is_made_of_the_ocd_that_runs(prefix: Path) -> None:
    assert export("container", "--out", str(prefix / "out"), "-y") == 0
    (packed,) = (prefix / "out").glob("*.whl")
    names = zipfile.ZipFile(packed).namelist()
    assert {"ocd/team/ready.py", "ocd/team/migrations/0001-people.sql"} <= set(names)
    assert not any("__pycache__" in one or "_data" in one for one in names)
    assert "--hash=sha256:" in (prefix / "out/requirements/litellm.txt").read_text()


# ------------------------------------------------------------------------------------ in the container itself


def test_a_platforms_identity_reaches_the_proxy_that_signs_and_ocd_toml_wins(tmp_path: Path) -> None:
    text = '[proxies.bedrock.env]\nAWS_ROLE_ARN = "mine"\n'
    environ = {
        "AWS_ROLE_ARN": "theirs",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "X": "y",
    }
    found = serve.with_identity(parse(tmp_path, text, {}), environ)
    given = {name: value.get_secret_value() for name, value in found.proxies.bedrock.env.items()}
    assert given == {"AWS_ROLE_ARN": "mine", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}
    assert found.proxies.main.env == {}


@pytest.fixture
def answers() -> Iterator[SimpleNamespace]:
    """A server of two answers."""
    said = SimpleNamespace(liveness=200, readiness=503, port=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(getattr(said, self.path.rpartition("/")[2]))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        said.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield said
        server.shutdown()
        thread.join()


def test_ready_once_and_alive_from_then_on(
    answers: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    (tmp_path / "state").mkdir()
    ask = [str(answers.port), "--plain"]
    assert ready.main(ask) == 1
    answers.readiness = 200
    assert ready.main(ask) == 0
    # its database is away: not ready, and no reason to be killed
    answers.readiness = 503
    assert ready.main(ask) == 0
    answers.liveness = 500
    assert ready.main(ask) == 1
    assert ready.main([str(answers.port)]) == 1  # no TLS there
