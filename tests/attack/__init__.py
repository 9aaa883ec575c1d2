"""The table of docs/security.md as tests: ``make attack``. ``SEED=n`` repeats a run of the generators.

``ways`` has the upstreams that behave badly, ``inputs`` makes what boundary, pipe, control API and configuration are
fed with, ``second`` is another user of the machine. tests/unit/test_attack_short.py runs a short form of the first two.
"""
