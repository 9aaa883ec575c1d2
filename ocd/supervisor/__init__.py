"""The supervisor: one asyncio loop that owns every decision and holds nothing that must survive it."""
