"""What ``occtl top`` shows (``picture``, pure) and the live view of it (``view``, Textual)."""
