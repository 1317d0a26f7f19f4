# Everything a developer calls. `make` alone lists it.

VENV   := .venv
PYTHON := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

# What the program and its tests need of Debian, besides Python itself.
PACKAGES := nftables python3-nftables python3-venv iproute2 conntrack
# And what the guest of `make test-vm` is made of.
PACKAGES += qemu-system-x86 linux-image-amd64 busybox-static kmod

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help venv demo test test-host test-vm lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 /p' Makefile | awk '{n=$$1; $$1=""; printf "make %-9s %s\n", n, $$0}'

venv: $(STAMP)  ## make .venv, with the Debian packages that are missing (asks for root)

$(STAMP): pyproject.toml Makefile
	@missing=$$(for package in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; \
	done); \
	if [ -n "$$missing" ]; then \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive sh -c \
			"apt-get update -q && apt-get install -q -y --no-install-recommends $$(echo $$missing)"; \
	fi
	@# libnftables' Python binding is Debian's, so the environment must see the system's packages.
	test -x $(PYTHON) || /usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## watch a small cloud being guarded (in network namespaces; needs root)
	@$(SUDO) $(PYTHON) -m secgroupd.demo

test:  ## run every test, here and then in a guest with Debian's own kernel (needs root)
	$(if $(ARGS),$(error ARGS are for one of them: make test-host or make test-vm))
	$(MAKE) test-host
	$(MAKE) test-vm

test-host: $(STAMP)  ## run the tests for this machine's kernel; ARGS='...' goes to pytest
	$(SUDO) $(PYTHON) -m pytest -n 2 $(ARGS)

test-vm: $(STAMP)  ## run the tests for the guest's kernel, under qemu without KVM; ARGS='...' goes to pytest
	$(PYTHON) -m tests.vm.run $(ARGS)

lint: $(STAMP)  ## format, lint and type checks
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:  ## remove everything that was made
	$(SUDO) rm -rf $(VENV) build dist agent/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(SUDO) find agent tests -name __pycache__ -type d -prune -exec rm -rf {} +
