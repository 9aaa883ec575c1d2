"""The shipped set-ups: which LiteLLM files and which settings make each of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from ocd.settings.load import FILE
from ocd.settings.tomlset import KeyPath, Value

LITELLM_FILES = ("litellm.yaml", "litellm-bedrock.yaml")

#: every key that one of the presets sets; None: the default
_NEUTRAL: dict[KeyPath, Value | None] = {
    ("auth",): None,
    ("slots", "opus"): None,
    ("slots", "sonnet"): None,
    ("slots", "haiku"): None,
    ("proxies", "main", "enabled"): None,
    ("proxies", "bedrock", "enabled"): None,
    ("external", "enabled"): None,
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
            {**_NEUTRAL, ("slots", "haiku"): "claude-haiku-4-5"},
        ),
        Preset(
            "bedrock",
            "All from Bedrock; nothing goes to Anthropic",
            "bedrock",
            {**_NEUTRAL, ("auth",): "none", ("slots", "haiku"): "claude-haiku-4-5"},
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
    )
}


def files(preset: Preset, region: str) -> dict[str, str]:
    """The preset's LiteLLM files, name → text, for the AWS region; none for ``external``."""
    if preset.folder is None:
        return {}
    folder = resources.files("ocd.stack") / "templates"
    if preset.folder:
        folder = folder / preset.folder
    prefix = inference_prefix(region)
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


def shipped_texts() -> set[str]:
    """Every text of a LiteLLM file that a preset may have written: such a file holds no work of the user's."""
    regions = ("us-west-2", "us-gov-west-1", "eu-west-1", "ap-northeast-1")
    return {
        text for preset in PRESETS.values() for region in regions for text in files(preset, region).values()
    }
