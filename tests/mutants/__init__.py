"""Mistakes that somebody could make, planted one by one: the tests must find each (``make mutants``)."""
