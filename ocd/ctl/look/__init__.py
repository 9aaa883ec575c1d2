"""What is only looked at, in a few dozen milliseconds: the standard library alone, a test counts the imports."""
