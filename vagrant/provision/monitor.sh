#!/bin/sh
# Makes the lab's monitoring machine: Prometheus with the agents' alert rules, Alertmanager and Grafana. May be run again.
# shellcheck source=vagrant/provision/common.sh
. /tmp/lab/provision/common.sh
install_packages monitor

install -m 644 monitoring/alerts.yaml /etc/prometheus/secgroupd-alerts.yaml
{
	cat <<-'EOF'
		global: {scrape_interval: 15s, evaluation_interval: 15s}
		rule_files: [secgroupd-alerts.yaml]
		alerting: {alertmanagers: [{static_configs: [{targets: ["127.0.0.1:9093"]}]}]}
		scrape_configs:
		  - job_name: secgroupd
		    static_configs:
	EOF
	for host in $(awk '$2 == "hypervisor" { print $1 }' hosts); do
		echo "      - {targets: [\"$(address_of "$host"):9760\"], labels: {instance: $host}}"
	done
} >/etc/prometheus/prometheus.yml
promtool check config /etc/prometheus/prometheus.yml

# Nobody is told: the lab asks Alertmanager what it has heard.
cat >/etc/prometheus/alertmanager.yml <<'EOF'
route: {receiver: nobody, group_wait: 5s}
receivers: [{name: nobody}]
EOF
systemctl -q enable prometheus prometheus-alertmanager
systemctl restart prometheus prometheus-alertmanager

# Grafana, with the dashboard: from its makers' source (Debian has none), where one is named and answers.
if [ -n "${LAB_GRAFANA:-}" ]; then
	dpkg-query -W ca-certificates >/dev/null 2>&1 || apt-get install -q -y --no-install-recommends ca-certificates
	mkdir -p /etc/apt/keyrings
	if /usr/lib/apt/apt-helper -o Acquire::Retries=3 download-file "$LAB_GRAFANA/gpg.key" /etc/apt/keyrings/grafana.asc; then
		echo "deb [signed-by=/etc/apt/keyrings/grafana.asc] $LAB_GRAFANA stable main" \
			>/etc/apt/sources.list.d/grafana.list
		apt-get update -q
	else
		echo "left out: Grafana, because $LAB_GRAFANA does not answer" >&2
	fi
fi
if apt-cache policy grafana 2>/dev/null | grep -q 'Candidate: [0-9]'; then
	apt-get install -q -y --no-install-recommends grafana
	install -D -m 644 -t /var/lib/grafana/dashboards monitoring/dashboard.json
	cat >/etc/grafana/provisioning/datasources/lab.yaml <<-'EOF'
		apiVersion: 1
		datasources: [{name: Prometheus, type: prometheus, url: "http://127.0.0.1:9090", isDefault: true}]
	EOF
	cat >/etc/grafana/provisioning/dashboards/lab.yaml <<-'EOF'
		apiVersion: 1
		providers: [{name: lab, type: file, options: {path: /var/lib/grafana/dashboards}}]
	EOF
	systemctl -q enable grafana-server
	systemctl restart grafana-server
fi

# The world outside: it knows the way to the routed instances, and has none itself.
install_instances
systemctl daemon-reload
systemctl -q enable lab-instances
systemctl restart lab-instances
