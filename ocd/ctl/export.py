"""``occtl export``: a team's server as files for an engine. Writes files; nothing is applied."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ocd import __version__
from ocd.ctl import diff, screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CONFIG, EX_NOINPUT, EX_OK, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.export.deployment import Deployment, Identity
    from ocd.export.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])

#: Whoever runs the containers reads them, as another user; no secret is in them.
_MODE = 0o644


@click.group(
    short_help="Write a deployment of your team's server.",
    epilog=examples(
        "occtl export container --out image         what `docker build image` needs",
        "occtl export swarm --image registry.example/ocd-team:1 --replicas 3",
        "occtl export kubernetes --role-arn arn:aws:iam::123456789012:role/bedrock",
        "occtl export compose --dry-run             what it would write or change",
    ),
)
def export() -> None:
    """Write a deployment of your team's server (`ocd serve --team`) from your own bedrock file and settings.

    Run again, it shows the difference and asks before it writes. What you changed by hand is not overwritten without
    --force, and `occtl undo` takes the last export back. Nothing is built, sent or applied, and no secret is written.
    """


def _writing(target: str) -> Callable[[F], F]:
    def add(function: F) -> F:
        out = click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path(f"ocd-team-{target}"),
            show_default=True,
            help="The folder to write to.",
        )
        force = click.option("--force", is_flag=True, help="Overwrite what was changed by hand, too.")
        dry = click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
        yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
        return out(force(dry(yes(json_option(function)))))

    return add


def _serving(identity: str) -> Callable[[F], F]:
    def add(function: F) -> F:
        image = click.option(
            "--image", default=f"ocd-team:{__version__}", show_default=True, help="The image's name."
        )
        replicas = click.option(
            "--replicas", type=click.IntRange(1, 100), default=2, show_default=True, help="How many servers."
        )
        drain = click.option(
            "--drain",
            type=click.IntRange(1, 86400),
            default=600,
            show_default=True,
            metavar="S",
            help="Seconds for answers to end.",
        )
        who = click.option(
            "--identity",
            type=click.Choice(("file", "workload", "instance")),
            default=identity,
            show_default=True,
            help="Who signs for AWS: a credentials file in the engine's store, what the platform gives a container "
            "(EKS, ECS), or the machine's role.",
        )
        plain = click.option("--plain", is_flag=True, help="HTTP, for behind a proxy of yours that has TLS.")
        return image(replicas(drain(who(plain(function)))))

    return add


@export.command(
    short_help="Write a Containerfile and what it copies.",
    epilog=examples(
        "occtl export container --out image && docker build -t ocd-team image -f image/Containerfile"
    ),
)
@_writing("container")
def container(out: Path, force: bool, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Write a Containerfile, ocd as a wheel, and the lists of hashed packages.

    The build needs a base image with Python (BASE) and a package index. The image runs as user 10001, its root may be
    read-only, and it holds no configuration and no secret.
    """
    from ocd.export import container as image
    from ocd.service.base import template

    locks = {name: template("requirements", name).encode() for name in image.LOCKS}
    return _write("container", image.files(__version__, _package(), locks), out, force, dry_run, yes, as_json)


def _stack(
    target: str,
    write: Callable[["Deployment"], dict[str, str]],
    *,
    image: str,
    replicas: int,
    drain: int,
    identity: "Identity",
    plain: bool,
    postgres: bool,
    out: Path,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    made = _deployment(image, replicas, drain, identity, plain, postgres=postgres)
    return _write(target, _bytes(write(made)), out, force, dry_run, yes, as_json)


@export.command(
    short_help="Write a Compose file.",
    epilog=examples(
        "occtl export compose --replicas 1 --postgres", "cd ocd-team-compose && docker compose up -d"
    ),
)
@_serving("file")
@click.option("--postgres", is_flag=True, help="A PostgreSQL in it, too; without it, yours elsewhere.")
@_writing("compose")
def compose(**options: Any) -> int:
    """Write compose.yaml and what belongs to it. Secrets are files of yours in the folder secrets.

    More than one server stand behind HAProxy, which passes TLS on unread. Compose ends a container before it starts the
    next one; a rolling update without a gap is Swarm's and Kubernetes'.
    """
    from ocd.export.compose import compose as write

    return _stack("compose", write, **options)


@export.command(
    short_help="Write a stack for Docker Swarm.",
    epilog=examples(
        "occtl export swarm --replicas 3", "docker stack deploy -c ocd-team-swarm/stack.yaml ocd-team"
    ),
)
@_serving("file")
@click.option("--postgres", is_flag=True, help="A PostgreSQL in it, too; without it, yours elsewhere.")
@_writing("swarm")
def swarm(**options: Any) -> int:
    """Write stack.yaml and what belongs to it: new servers before old ones, secrets from Swarm's store."""
    from ocd.export.compose import swarm as write

    return _stack("swarm", write, **options)


@export.command(
    short_help="Write a kustomize base and an overlay.",
    epilog=examples(
        "occtl export kubernetes --role-arn arn:aws:iam::123456789012:role/bedrock",
        "kubectl diff -k ocd-team-kubernetes/overlays/team",
    ),
)
@_serving("workload")
@click.option(
    "--role-arn", "role", default="", metavar="ARN", help="The role for the service account (EKS, IRSA)."
)
@_writing("kubernetes")
def kubernetes(
    image: str,
    replicas: int,
    drain: int,
    identity: "Identity",
    plain: bool,
    role: str,
    out: Path,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Write manifests: a kustomize base, which is ocd's, and an overlay, which is yours and written only once."""
    from ocd.export.kubernetes import OVERLAY
    from ocd.export.kubernetes import kubernetes as write

    made = _deployment(image, replicas, drain, identity, plain, role=role)
    return _write("kubernetes", _bytes(write(made)), out, force, dry_run, yes, as_json, once=(OVERLAY,))


def _bytes(texts: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode() for path, text in texts.items()}


def _deployment(
    image: str,
    replicas: int,
    drain: int,
    identity: "Identity",
    plain: bool,
    postgres: bool = False,
    role: str = "",
) -> "Deployment":
    """The user's own bedrock file and settings as a deployment. Raises OcdError."""
    from ocd.export import deployment
    from ocd.settings.findings import ConfigError
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.settings.schema import MainProxy
    from ocd.stack.check import check
    from ocd.stack.swap import read_stack
    from ocd.stack.trial import litellm_site

    deployment.checked(image, role)
    folders = Folders.find()
    settings = load(folders)
    # Of the main proxy nothing is exported: its file may be missing, or wrong.
    alone = settings.proxies.model_copy(update={"main": MainProxy(enabled=False)})
    settings = settings.model_copy(update={"proxies": alone})
    file = dict(read_stack(folders, settings).files()).get("bedrock")
    if file is None:
        raise OcdError(
            "There is no bedrock file to export",
            "[proxies.bedrock] is not enabled, or its file is missing",
            "Run `occtl config check`",
            exit_code=EX_NOINPUT,
            code="export-no-file",
        )
    litellm, left = deployment.litellm(file.data)
    # What `ocd serve` would refuse at its start is better known now.
    found = check(folders, settings, litellm_site(folders, settings))
    if wrong := [one for one in found if one.severity == "error"]:
        raise ConfigError(wrong)
    for line in left:
        screen.note(screen.plain(line))
    if given := sorted(settings.proxies.bedrock.env):
        screen.note(f"Not exported, since they may be secrets: {', '.join(given)} of [proxies.bedrock.env].")
    return deployment.Deployment(
        image=image,
        litellm=litellm,
        toml=deployment.toml(settings, identity, drain),
        replicas=replicas,
        drain=drain,
        identity=identity,
        tls=not plain,
        postgres=postgres,
        role=role,
    )


def _package() -> dict[str, bytes]:
    """The files of the ocd that runs."""
    import ocd

    root = Path(os.path.abspath(ocd.__file__)).parent
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and path.suffix != ".pyc" and name.parts[0] != "_data":
            found[f"ocd/{name.as_posix()}"] = path.read_bytes()
    return found


def _write(
    target: str,
    wanted: Mapping[str, bytes],
    out: Path,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    once: tuple[str, ...] = (),
) -> int:
    from ocd.export import plan as plans

    folder = Path(os.path.abspath(out.expanduser()))
    of, ours = plans.read(_content(folder / plans.MANIFEST))
    if of and of != target:
        raise OcdError(
            f"{folder} has an export of another kind",
            f"it is for {of}",
            "Name another folder with --out",
            exit_code=EX_USAGE,
            code="export-other-kind",
        )
    there = {path: found for path in {*wanted, *ours} if (found := _content(folder / path)) is not None}
    plan = plans.plan(wanted, there, ours, once)
    changed = [*sorted(plan.write), *sorted(plan.remove)]
    said = {
        "target": target,
        "folder": str(folder),
        "written": sorted(plan.write),
        "removed": sorted(plan.remove),
        "unchanged": sorted(plan.same),
        "kept": sorted(plan.kept),
        "edited": sorted(plan.edited),
        "dry_run": dry_run,
    }
    if not as_json:
        _show(folder, plan, there)
    if plan.edited and not force:
        if as_json and dry_run:
            screen.out_json({"ok": False, **said})
            return EX_CONFIG
        raise OcdError(
            f"{', '.join(sorted(plan.edited))} {'is' if len(plan.edited) == 1 else 'are'} your own work",
            "changed by hand since the last export, or there before the first; nothing was written",
            "Move the changes into an overlay, or repeat with --force: `occtl undo` puts yours back",
            exit_code=EX_CONFIG,
            code="export-edited",
        )
    if changed and not dry_run:
        _asked(yes)
        _put(folder, plan, plans.manifest(target, {k: v for k, v in wanted.items() if k not in once}))
    if as_json:
        screen.out_json({"ok": True, **said})
    elif not changed:
        screen.out("Nothing would change." if dry_run else "Everything is as it should be.")
    elif not dry_run:
        screen.out(f"Written to {folder}. Nothing was applied.")
    return EX_OK


def _show(folder: Path, plan: "Plan", there: Mapping[str, bytes]) -> None:
    texts: dict[Path, str | bytes | None] = {}
    for path in sorted(plan.write):
        new = path not in there
        screen.out(f"{'new' if new else 'changed'}  {path}  {screen.size(len(plan.write[path]))}")
        if not new and not path.endswith(".whl"):
            texts[folder / path] = plan.write[path]
    for path in sorted(plan.remove):
        screen.out(f"removed  {path}")
    # of a file that is not there yet, all would be new
    diff.show(texts)


def _asked(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise OcdError(
            "Nothing was written",
            "nobody could be asked: standard input is no terminal",
            "Repeat with --yes, or with --dry-run to look",
            exit_code=EX_USAGE,
            code="not-asked",
        )
    if not click.confirm("Write this?", default=True, err=True):
        raise click.Abort


def _put(folder: Path, plan: "Plan", manifest: bytes) -> None:
    from ocd.export.plan import MANIFEST
    from ocd.settings import backup
    from ocd.settings.folders import Folders

    new = [path for path in plan.write if not (folder / path).exists()]
    contents: dict[Path, str | bytes | None] = {
        folder / path: content for path, content in plan.write.items()
    }
    backup.change(
        Folders.find(),
        "export",
        {**contents, **{folder / one: None for one in plan.remove}, folder / MANIFEST: manifest},
    )
    for path in new:
        os.chmod(folder / path, _MODE)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OcdError(
            f"Cannot read {path}",
            error.strerror or str(error),
            "Name another folder with --out",
            exit_code=EX_NOINPUT,
            code="export-unreadable",
        ) from None
