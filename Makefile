# Two environments, as in an installation: ours and LiteLLM's. Each is made again when its lock changes.
PYTHON ?= python3
VENV := .venv
GUEST := .venv-litellm
PY := $(VENV)/bin/python
export OCD_TEST_LITELLM_PYTHON ?= $(CURDIR)/$(GUEST)/bin/python

.DEFAULT_GOAL := help
.PHONY: walk mutants help docs coverage dev test unit unit-everywhere process client client-short systemd lint format bench chaos run lock clean canaries
