# Everything a developer calls. `make` alone lists it.

VENV   := .venv
PYTHON := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

# What the program and its tests need of Debian, besides Python itself.
PACKAGES := netbase nftables python3-nftables python3-venv iproute2 conntrack
# And what the guest of `make test-vm` is made of.
PACKAGES += qemu-system-x86 linux-image-amd64 busybox-static kmod
# What building the package needs, and what testing it needs besides.
DEB_PACKAGES  := debhelper dh-python dpkg-dev
TEST_PACKAGES := $(DEB_PACKAGES) bash-completion graphviz lintian groff-base mmdebstrap openssl systemd systemd-container
# And what holds the lab's scripts and its Vagrantfile to what they claim.
TEST_PACKAGES += shellcheck vagrant vagrant-libvirt
# What the emulated lab is made with.
LAB_PACKAGES := $(DEB_PACKAGES) e2fsprogs mmdebstrap openssh-client python3 qemu-system-x86 qemu-utils

# Where `make install` puts what it installs. Settings are in /etc, wherever the program is.
PREFIX  ?= /usr/local
DESTDIR ?=
UNITDIR ?= $(PREFIX)/lib/systemd/system
LIBRARY := $(PREFIX)/share/secgroupd
ROOT    := $(DESTDIR)$(PREFIX)

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Installs those of a list of Debian packages that are missing (asks for root).
need = @missing=$$(for package in $(1); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; \
	done); \
	if [ -n "$$missing" ]; then \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive sh -c \
			"apt-get update -q && apt-get install -q -y --no-install-recommends $$(echo $$missing)"; \
	fi

.PHONY: help venv demo test test-host test-vm reference lab lab-up lab-ssh lab-down lint install deb clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 /p' Makefile | awk '{n=$$1; $$1=""; printf "make %-9s %s\n", n, $$0}'

venv: $(STAMP)  ## make .venv, with the Debian packages that are missing (asks for root)

$(STAMP): pyproject.toml Makefile
	$(call need,$(PACKAGES))
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

# Unpacked, not installed: that would start a server on the developer's machine.
$(VENV)/debian/usr/bin/prometheus: $(STAMP)
	mkdir -p $(VENV)/debian
	cd $(VENV)/debian && $(SUDO) sh -c "apt-get update -q && apt-get download -q prometheus"
	dpkg -x $(VENV)/debian/prometheus_*.deb $(VENV)/debian
	touch $@

# Debian 13's programs, for what Debian 12's nftables cannot do.
$(VENV)/debian13/usr/bin/nft: $(STAMP)
	$(call need,mmdebstrap)
	$(SUDO) rm -rf $(VENV)/debian13
	$(SUDO) mmdebstrap --quiet --mode=root --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--include=base-files,libc6,nftables,python3,python3-nftables,python3-pyroute2,python3-yaml,python3-prometheus-client,ulogd2 \
		trixie $(VENV)/debian13
	touch $@

test-host: $(STAMP) $(VENV)/debian/usr/bin/prometheus $(VENV)/debian13/usr/bin/nft  ## run the tests for this machine's kernel; ARGS='...' goes to pytest
	$(call need,$(TEST_PACKAGES))
	$(SUDO) $(PYTHON) -m pytest -n 2 $(ARGS)

test-vm: $(STAMP)  ## run the tests for the guest's kernel, under qemu without KVM; ARGS='...' goes to pytest
	$(PYTHON) -m tests.vm.run $(ARGS)

reference: $(STAMP)  ## write the pages that are made from the program: commands, settings, document
	$(PYTHON) -m secgroupd.reference

lab:  ## two real hosts and their monitoring, emulated: everything on them is proven, then they end (an hour at most)
	$(MAKE) lab-down
	$(MAKE) lab-up
	vagrant/lab-test --keep vagrant/REPORT.md; code=$$?; vagrant/lab down; exit $$code

lab-up: deb  ## start the lab and leave it running
	$(call need,$(LAB_PACKAGES))
	vagrant/lab up

lab-ssh:  ## a shell on one of the lab's hosts: make lab-ssh HOST=hv1
	@vagrant/lab ssh $(or $(HOST),$(error HOST=hv1 or another of vagrant/hosts))

lab-down:  ## end the lab
	vagrant/lab down

lint: $(STAMP)  ## format, lint and type checks
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

install:  ## install for use, under PREFIX (/usr/local) and DESTDIR; settings that are there stay
	install -d $(ROOT)/bin $(ROOT)/sbin $(DESTDIR)$(UNITDIR) $(DESTDIR)/etc/secgroupd/state.d
	install -d $(DESTDIR)$(LIBRARY)
	cd agent && find secgroupd \( -name demo -o -name reference -o -name __pycache__ \) -prune -o \
		\( -name '*.py' -o -name '*.json' \) -exec install -D -m 644 {} $(DESTDIR)$(LIBRARY)/{} \;
	sed -e 's|@LIBRARY@|$(LIBRARY)|' -e 's|@MODULE@|secgroupd.daemon|' systemd/launcher.in > $(ROOT)/sbin/secgroupd
	sed -e 's|@LIBRARY@|$(LIBRARY)|' -e 's|@MODULE@|secgroupd.cli|' systemd/launcher.in > $(ROOT)/bin/secgroupctl
	chmod 755 $(ROOT)/sbin/secgroupd $(ROOT)/bin/secgroupctl
	for unit in secgroupd.service secgroupd-guard.service; do \
		sed 's|^ExecStart=/usr/|ExecStart=$(PREFIX)/|' systemd/$$unit > $(DESTDIR)$(UNITDIR)/$$unit && \
		chmod 644 $(DESTDIR)$(UNITDIR)/$$unit || exit; \
	done
	install -D -m 644 systemd/secgroupd.sysusers $(ROOT)/lib/sysusers.d/secgroupd.conf
	install -D -m 644 systemd/secgroupd.tmpfiles $(ROOT)/lib/tmpfiles.d/secgroupd.conf
	test -e $(DESTDIR)/etc/secgroupd/secgroupd.yaml || \
		install -m 644 systemd/secgroupd.yaml $(DESTDIR)/etc/secgroupd/secgroupd.yaml
	install -D -m 644 -t $(ROOT)/share/man/man8 man/secgroupd.8
	install -D -m 644 -t $(ROOT)/share/man/man1 man/secgroupctl.1
	install -D -m 644 -t $(ROOT)/share/man/man5 man/secgroupd.yaml.5 man/secgroupd-state.5
	install -D -m 644 completion/secgroupctl.bash $(ROOT)/share/bash-completion/completions/secgroupctl

deb:  ## build dist/secgroupd_VERSION_all.deb (installs what that needs)
	$(call need,$(DEB_PACKAGES))
	rm -rf build/deb
	mkdir -p build/deb/secgroupd dist
	cp -a agent completion debian docs man systemd CHANGELOG.md LICENSE Makefile README.md build/deb/secgroupd/
	cd build/deb/secgroupd && dpkg-buildpackage --build=binary --no-sign
	cp build/deb/*.deb dist/

clean:  ## remove everything that was made
	$(SUDO) rm -rf $(VENV) build dist agent/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(SUDO) find agent tests -name __pycache__ -type d -prune -exec rm -rf {} +
