"""The shipped set-ups: which LiteLLM files and which settings make each of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from ocd.settings.load import FILE
from ocd.settings.tomlset import KeyPath, Value
from ocd.stack import former

LITELLM_FILES = ("litellm.yaml", "litellm-bedrock.yaml")
#: of inference profiles, one a part of the world: see ``inference_prefix``
PREFIXES = ("us.", "eu.", "us-gov.", "global.")

#: every key that one of the presets sets; None: the default
_NEUTRAL: dict[KeyPath, Value | None] = {
    ("auth",): None,
    ("slots", "opus"): None,
    ("slots", "sonnet"): None,
    ("slots", "haiku"): None,
    ("slots", "fable"): None,
    ("proxies", "main", "enabled"): None,
    ("proxies", "bedrock", "enabled"): None,
    ("external", "enabled"): None,
    ("team", "url"): None,
}


@dataclass(frozen=True, slots=True)
class Preset:
    """``folder`` below ``templates`` has the LiteLLM files, None: there are none. ``settings`` are what
    ``ocd.toml`` must say; a None means the default."""

    name: str
    about: str
    folder: str | None
    settings: Mapping[KeyPath, Value | None]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "mixed",
            "Opus and Sonnet from Anthropic with the Claude plan, the haiku slot from Bedrock",
            "",
            _NEUTRAL,
        ),
        Preset(
            "fallback",
            "All from Anthropic with the Claude plan; Bedrock's Claude on overload, rate limit and outage",
            "fallback",
            {**_NEUTRAL, ("slots", "haiku"): ""},
        ),
        Preset(
            "bedrock",
            "All from Bedrock; nothing goes to Anthropic",
            "bedrock",
            {**_NEUTRAL, ("auth",): "none", ("slots", "haiku"): ""},
        ),
        Preset(
            "external",
            "A LiteLLM that somebody else runs (LITELLM_BASE_URL, LITELLM_API_KEY); nothing is supervised",
            None,
            {
                **_NEUTRAL,
                ("auth",): "none",
                ("proxies", "main", "enabled"): False,
                ("proxies", "bedrock", "enabled"): False,
                ("external", "enabled"): True,
            },
        ),
        Preset(
            "team",
            "Claude with your own plan, the haiku slot from a team's Bedrock proxy (OCD_TEAM_URL, OCD_TEAM_KEY)",
            "",
            {**_NEUTRAL, ("proxies", "bedrock", "enabled"): False},
        ),
    )
}


def files(preset: Preset, region: str) -> dict[str, str]:
    """The preset's LiteLLM files, name → text, for the AWS region; none for ``external``."""
    return files_with(preset, inference_prefix(region))


def files_with(preset: Preset, prefix: str) -> dict[str, str]:
    """``files`` for a prefix of inference profiles (``us.``, ``eu.``, …)."""
    if preset.folder is None:
        return {}
    folder = resources.files("ocd.stack") / "templates"
    if preset.folder:
        folder = folder / preset.folder
    return {
        name: (folder / name).read_text(encoding="utf-8").replace("/us.anthropic.", f"/{prefix}anthropic.")
        for name in LITELLM_FILES
    }


def toml_template() -> str:
    """The ``ocd.toml`` that a new user starts with."""
    return (resources.files("ocd.stack") / "templates" / FILE).read_text(encoding="utf-8")


def inference_prefix(region: str) -> str:
    """The prefix of the cross-region inference profiles that serve Claude in a region.

    AWS: User guide of Amazon Bedrock, "Supported Regions and models for inference profiles". ``global.`` is
    where the shipped models have no profile for the part of the world.
    """
    if region.startswith("us-gov-"):
        return "us-gov."
    return {"us": "us.", "eu": "eu."}.get(region.partition("-")[0], "global.")


def is_shipped(text: str) -> bool:
    """Whether a preset may have written this text of a LiteLLM file, now or in a former version: then it holds no
    work of the user's."""
    texts = {
        one
        for preset in PRESETS.values()
        for prefix in PREFIXES
        for one in files_with(preset, prefix).values()
    }
    return text in texts or former.of(text) is not None
