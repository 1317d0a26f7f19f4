#!/bin/sh
# Makes a hypervisor of the lab: secgroupd from its Debian package, and instances. May be run again.
# shellcheck source=vagrant/provision/common.sh
. /tmp/lab/provision/common.sh
install_packages hypervisor
name=$(hostname)

# Settings that were changed stay as they are.
apt-get install -q -y --reinstall --allow-downgrades --no-install-recommends -o Dpkg::Options::=--force-confold \
	/tmp/lab/secgroupd.deb

# What is pushed becomes valid in one step, by a link that is replaced: guest/lab-take.
install -d -m 755 /etc/secgroupd/policy
install -m 755 guest/lab-take.sh /usr/local/sbin/lab-take
cat >/etc/secgroupd/secgroupd.yaml <<EOF
source: {directory: /etc/secgroupd/policy/current}
host_id: $name
metrics: {listen: "$(address_of "$name"):9760"}
EOF

install_instances
# As libvirt and the like: no instance starts unguarded.
install -d /etc/systemd/system/lab-instances.service.d
cat >/etc/systemd/system/lab-instances.service.d/guarded.conf <<'EOF'
[Unit]
Requires=secgroupd-guard.service
After=secgroupd-guard.service
EOF
systemctl daemon-reload
systemctl -q enable secgroupd-guard secgroupd lab-instances
systemctl restart secgroupd lab-instances
