"""The user's files as the supervisor follows them: read, checked, watched, kept."""
