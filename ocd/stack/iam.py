"""What an AWS identity needs in order to call a model: actions and resources.

AWS: Service Authorization Reference, "Actions, resources, and condition keys for Amazon Bedrock"; User guide of
Amazon Bedrock, "Prerequisites for inference profiles": a profile needs itself and the models behind it.
"""

import re

#: streaming is an action of its own; Claude Code streams
ACTIONS = ("bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream")
#: Claude Code asks how large a conversation is; LiteLLM asks Bedrock for Claude's models, by the model behind a profile
#: (AWS: "CountTokens"; it costs nothing). Denied, it is estimated.
COUNTING = "bedrock:CountTokens"

_PROFILE = re.compile(r"^(us-gov|us|eu|apac|jp|au|ca|global)\.(?=[a-z0-9-]+\.)")
#: routes that LiteLLM takes before the id (``bedrock/converse/ID``)
_WAYS = ("converse", "invoke", "converse_like")


def model_id(model: str) -> str:
    """The id or ARN that AWS gets for a LiteLLM model: ``bedrock/converse/us.x.y`` → ``us.x.y``."""
    rest = model.removeprefix("bedrock/").removeprefix("bedrock_converse/")
    for way in _WAYS:
        rest = rest.removeprefix(f"{way}/")
    # bedrock/us-east-1/ID names the region too
    return re.sub(r"^[a-z]{2}(?:-[a-z]+)+-\d/", "", rest)


def arns(model: str, region: str) -> list[str]:
    """The resources that both actions must be allowed on."""
    name = model_id(model)
    if name.startswith("arn:"):
        return [name]
    partition = (
        "aws-us-gov" if region.startswith("us-gov-") else "aws-cn" if region.startswith("cn-") else "aws"
    )
    profile = _PROFILE.match(name)
    if profile is None:
        return [f"arn:{partition}:bedrock:{region}::foundation-model/{name}"]
    base = name[profile.end() :]
    return [
        f"arn:{partition}:bedrock:{region}:*:inference-profile/{name}",
        f"arn:{partition}:bedrock:*::foundation-model/{base}",
    ]
