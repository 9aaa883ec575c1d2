"""``occtl sbom``: what the two environments consist of, and what is published against them."""

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option

#: as `occtl status`: looked at, and not as it should be
EX_FOUND = 3


@click.command(
    short_help="Print the bill of materials of an environment.",
    epilog=examples(
        "occtl sbom > ocd.cdx.json", "occtl sbom litellm > litellm.cdx.json", "occtl sbom --advisories"
    ),
)
@click.argument("environment", type=click.Choice(["ocd", "litellm"]), default="ocd")
@click.option(
    "--advisories",
    "look",
    is_flag=True,
    help="Ask osv.dev what is published against both environments: it learns names and versions.",
)
@json_option
def sbom(environment: str, look: bool, as_json: bool) -> int:
    """Print the bill of materials (CycloneDX 1.6, JSON) of ocd's environment, or of LiteLLM's.

    With --advisories it says instead what is published against the packages of both, and ends with 3 when that is
    anything.
    """
    from ocd.adapters import packages
    from ocd.doctor import published

    if not look:
        found, version = published.consists_of(environment)
        screen.out_json(packages.bill(environment, version, found))
        return 0
    with screen.progress("Asking for advisories…"):
        count, known = published.advisories()
    if as_json:
        screen.out_json(
            [
                {
                    "package": one.package.name,
                    "version": one.package.version,
                    "id": one.id,
                    "summary": one.summary,
                    "fixed": list(one.fixed),
                }
                for one in known
            ]
        )
    else:
        for one in known:
            screen.out(screen.plain(published.sentence(one)))
        screen.out(f"{len(known) or 'Nothing'} published against {count} packages.")
    return EX_FOUND if known else 0
