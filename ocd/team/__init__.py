"""A team's server: `ocd serve --team`. The bedrock proxy behind personal keys, with budgets in a database."""
