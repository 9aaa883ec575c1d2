"""Pure decisions: no clock, no I/O. Time comes in as an argument, effects go out as values."""
