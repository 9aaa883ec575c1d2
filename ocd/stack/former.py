"""Files that former versions shipped, known by their hash: one that nobody changed can be replaced by today's."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Former:
    """``file``: its name; ``presets`` that had it; ``prefix`` of the inference profiles in it, empty: none."""

    file: str
    presets: tuple[str, ...]
    prefix: str


def of(text: str | bytes) -> Former | None:
    """What of a former version this is, byte for byte; None: nothing, or somebody's work."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return FORMER.get(hashlib.sha256(raw).hexdigest())


#: sha256 of the text → what it is: ``ocd/stack/templates`` of 0.1.0 as ``occtl init`` wrote them, each preset's
#: ``ocd.toml`` with that preset's keys included
FORMER = {
    "66a4b133f73727883644ecb8f8df29460cbc7b49de63606cf7b3461353955f4d": Former("ocd.toml", ("mixed",), ""),
    "0fe45356264334ffccdbcb59372502202b070052d993ded2650a009f15e1f40a": Former("ocd.toml", ("fallback",), ""),
    "d9fc527e17331337e7240f801b9cffa6b7ed74ebb8760e16674a33207c86fc83": Former("ocd.toml", ("bedrock",), ""),
    "8312308dab5498d999bcd14f2652ba76b2dbe8217db705e18de1c1376e072c2e": Former(
        "litellm.yaml", ("mixed",), ""
    ),
    "b903697a07bc5b157c683124bd04c8c772af82356c2afa5eeddfefdc69a09699": Former(
        "litellm.yaml", ("fallback",), ""
    ),
    "32dac43bf00799cfa1815fb19deddbc00e765cc24b98bccabcd40b9e84dfeb97": Former(
        "litellm-bedrock.yaml", ("bedrock", "fallback"), "us."
    ),
    "b85e2037139e29f28beffc390d452fe522d854e9a0f409541086597182588073": Former(
        "litellm-bedrock.yaml", ("bedrock", "fallback"), "eu."
    ),
    "f01158f23d30d9a6a354392ce7db5a6a0d2b1da085200c69016650dcbd5c621f": Former(
        "litellm-bedrock.yaml", ("bedrock", "fallback"), "us-gov."
    ),
    "135714bb23adcb8d059b9db5a58e4c7fb7d63d1170c5378c5960d58129dc30bd": Former(
        "litellm-bedrock.yaml", ("bedrock", "fallback"), "global."
    ),
    "34df79d9b66639fbbfd2738f071eaf0bf49a355e2d83a7a222f0b2c01a3a3a9a": Former(
        "litellm.yaml", ("bedrock",), ""
    ),
    "6132e07441bef5107c4d1fa6006979d6a4838d88cea8dbb89c0716316893acc8": Former("ocd.toml", ("mixed",), ""),
    "04885e56b3f9e431cda50f73d95566c6f836f5bb3b45da0ef45bce9acbd740df": Former("ocd.toml", ("fallback",), ""),
    "153d3d3aedd0ca0ca8d6f2099e26b9b84e816b64458dc6485168a03770b379f2": Former("ocd.toml", ("bedrock",), ""),
    "eabdb14d8c2c851853043be982219497bef5682fa6fa2c4720616be1edeb8c10": Former("ocd.toml", ("mixed",), ""),
    "99c99ff599344f7c8b0a32e2734e80d7d76b72dd672cc8475f183c4a985e4304": Former("ocd.toml", ("fallback",), ""),
    "4c5daa73abb6f544180a7f7747b4575df4a567ae3858a80b3598943f0f9d0822": Former("ocd.toml", ("bedrock",), ""),
    "3943f26d5ab6a37aa0c0adedf160a889d8f4d5ee0bfc0cb674bbe9eaa5f1c3b9": Former("ocd.toml", ("mixed",), ""),
    "6094fb0f308e4757257fa10283f84e7cdbaea5b4383fbfab76865ed9cd55eadd": Former("ocd.toml", ("fallback",), ""),
    "70b15bbf00115648978ccb9303c576d2361d10cabfc8712739b7452872e646b3": Former("ocd.toml", ("bedrock",), ""),
    "671dc97b3a32beb54e60c9a5a0fee49c583004439f35a5460e9dd972286e9ad3": Former("ocd.toml", ("mixed",), ""),
    "ca48a230797dd09af10d4c4ae5c2ecea3ec509a7c5483cded3f7323061622340": Former("ocd.toml", ("fallback",), ""),
    "d37ec9e6be7169c24a2197e28658ee355739a2bda74eb54c3aef1904a52c834c": Former("ocd.toml", ("bedrock",), ""),
    "65785fe73b3e50630fbc755b492eaa5f9405ce18d200e144d5a0d13ecf4ae563": Former("ocd.toml", ("mixed",), ""),
    "983fb983bef0df806914e53a20540590d5fb38562c05d4a61e1f36764e50feb1": Former("ocd.toml", ("fallback",), ""),
    "f75660f0ac9a6f271bd1e32582f0292b48a3c9dc596c49339581e0c28523e636": Former("ocd.toml", ("bedrock",), ""),
    "b11b2c2d8e9f7fa3ee1b10ce51a70a5af5d8ed6c94f82445c6cf85a5a8acf36d": Former(
        "litellm.yaml", ("mixed",), ""
    ),
    "8735d00b8cf1f76e838c7ce55c61c3d16fec46fe8cf7306605129b420c0be6c3": Former("ocd.toml", ("mixed",), ""),
    "9a6131b21c61ee1054af5055b09c67738239d0f9a5c24a4eea1e7634d6f65fdb": Former("ocd.toml", ("fallback",), ""),
    "8bcd188ff37fac988ee1810d9d9d94619da35808f540785ff8f4cac8acbbaab5": Former("ocd.toml", ("bedrock",), ""),
}
