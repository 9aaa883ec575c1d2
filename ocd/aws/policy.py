"""The least IAM policy for the configured models. Pure."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from ocd.stack import iam
from ocd.stack.stack import AWS, ENVIRON, Stack, routes

_PROFILE_ARN = re.compile(
    r"arn:(aws[\w-]*):bedrock:[\w-]*:\d*:inference-profile/(?:us-gov|us|eu|apac|jp|au|ca|global)\.(.+)"
)


@dataclass(frozen=True, slots=True)
class Need:
    """One model group and the resources that both actions must be allowed on; ``counts``: tokens are counted there."""

    name: str
    model: str
    resources: list[str]
    remark: str = ""
    counts: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def needs(stack: Stack) -> list[Need]:
    """What each Bedrock route of both files needs, in their order."""
    found = []
    for _, file in stack.files():
        for route in routes(file):
            if route.provider not in AWS:
                continue
            given = route.params.get("aws_region_name")
            literal = isinstance(given, str) and given and not given.startswith(ENVIRON)
            region = str(given) if literal else stack.settings.aws_region
            resources, remark = iam.arns(route.model, region), ""
            if profile := _PROFILE_ARN.fullmatch(resources[0]):
                # A request over a profile needs the model behind it too, wherever the profile sends it.
                resources.append(f"arn:{profile[1]}:bedrock:*::foundation-model/{profile[2]}")
            elif ":application-inference-profile/" in resources[0]:
                remark = "add the foundation model behind this profile; its ARN does not name it"
            counts = any("/anthropic." in arn for arn in resources)
            found.append(Need(route.name, route.model, resources, remark, counts))
    return found


def document(found: list[Need]) -> dict[str, Any]:
    """The policy as IAM takes it."""
    resources = list(dict.fromkeys(arn for need in found for arn in need.resources))
    statement = {"Sid": "OcdInvoke", "Effect": "Allow", "Action": list(iam.ACTIONS), "Resource": resources}
    counted = [arn for need in found if need.counts for arn in need.resources if "foundation-model/" in arn]
    counting = {
        "Sid": "OcdCount",
        "Effect": "Allow",
        "Action": [iam.COUNTING],
        "Resource": [*dict.fromkeys(counted)],
    }
    return {"Version": "2012-10-17", "Statement": [statement, counting] if counted else [statement]}
