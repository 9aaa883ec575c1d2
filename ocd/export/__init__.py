"""``occtl export``: a team's server as files for an engine. Pure: paths and contents, nothing is read or written."""
