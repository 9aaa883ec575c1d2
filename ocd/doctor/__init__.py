"""Everything that can be wrong on this machine, in one report. Judging (``checks``) is pure, ``gather`` looks."""
