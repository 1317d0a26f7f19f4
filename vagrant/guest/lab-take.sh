#!/bin/sh
# lab-take [SECONDS]: takes a policy's files, as a tar archive on standard input, and waits until the agent enforces
# them; prints the revision. A refused document's problems are printed instead, and the exit code is 1.
set -eu
base=/etc/secgroupd/policy
new=$(mktemp -d "$base/XXXXXXXX")
chmod 755 "$new"
tar -x --no-same-owner -C "$new"
old=$(readlink "$base/current" || true)
ln -sfn "$new" "$base/current.new"
# One step: the agent sees all files of before, or all files of now.
mv -T "$base/current.new" "$base/current"
[ -z "$old" ] || rm -rf "$old"

found=$(secgroupctl check --json "$base/current") || { echo "$found"; exit 1; }
revision=$(echo "$found" | sed -n 's/.*"revision": "\([0-9a-f]*\)".*/\1/p')
for _ in $(seq "${1:-120}"); do
	if secgroupctl status --json | grep -q "\"revision\": \"$revision\""; then
		echo "$revision"
		exit
	fi
	sleep 1
done
echo "revision $revision is not in force:"
secgroupctl status
exit 1
