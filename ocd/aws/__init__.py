"""AWS credentials as the bedrock proxy would find them; looked at offline, never used."""
