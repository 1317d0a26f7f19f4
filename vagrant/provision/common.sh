# shellcheck shell=sh
# Sourced by the other scripts, which run as root on a machine of the lab. The lab's files are in /tmp/lab.
set -eu
export DEBIAN_FRONTEND=noninteractive
cd /tmp/lab

# install_packages ROLE: the Debian packages that the role names and that are missing.
install_packages() {
	missing=
	for package in $(sed 's/#.*//' "packages/$1"); do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
	done
	if [ -n "$missing" ]; then
		apt-get update -q
		# shellcheck disable=SC2086 # a list
		apt-get install -q -y --no-install-recommends $missing
	fi
}

# address_of HOST: its address in the lab's network.
address_of() {
	awk -v name="$1" '$1 == name { print $4 }' hosts
}

# install_instances: the program that makes this host's instances, and its unit.
install_instances() {
	install -D -m 644 -t /etc/lab hosts instances
	install -m 755 guest/lab_instances.py /usr/local/sbin/lab-instances
	cat >/etc/systemd/system/lab-instances.service <<-'UNIT'
		[Unit]
		Description=The lab's instances on this host
		Wants=network-online.target
		After=network-online.target

		[Service]
		ExecStart=/usr/local/sbin/lab-instances
		Restart=on-failure

		[Install]
		WantedBy=multi-user.target
	UNIT
}
