"""Stand-ins for the two upstreams, and the self-test that shows which credential went where."""
