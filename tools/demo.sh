#!/bin/sh
# A cluster on this machine with three agents (native, mipsle and arm under
# qemu-user), and what people do with it: ssh, scp, hawser ls, hawser play.
# At a terminal it stays up until Ctrl-C. Everything it makes is below .demo.
set -eu
cd "$(dirname "$0")/.."
. tools/need.sh

dir="$PWD/.demo"
step="begin"
pids=""

finish() {
	code=$?
	trap - EXIT INT TERM HUP
	for p in $pids; do kill "$p" 2>/dev/null || true; done
	for p in $pids; do wait "$p" 2>/dev/null || true; done
	if [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then
		echo "demo: failed at this step: $step" >&2
		for log in "$dir"/*.log "$dir"/devices/*/log; do
			[ -s "$log" ] && { echo "--- $log" >&2; tail -n 15 "$log" >&2; }
		done
	fi
	rm -rf "$dir"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

say() { step="$*"; printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

# until_true SECONDS COMMAND...: runs the command until it succeeds.
until_true() {
	left=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || return 1
		kill -0 "$up" 2>/dev/null || return 1
		sleep 0.2
	done
}

say "what the machine has"
command -v go >/dev/null 2>&1 || { echo "go is not in PATH: install Go 1.26 first" >&2; exit 1; }
need ssh openssh-client qemu-mipsel-static qemu-user-static qemu-arm-static qemu-user-static
command -v ssh >/dev/null 2>&1 || { echo "the OpenSSH client is missing: as root, apt-get install openssh-client" >&2; exit 1; }

say "build the programs"
make -s build
rm -rf "$dir"
mkdir -m 700 "$dir"
export HAWSER_HOME="$dir/home"
hawser="$PWD/bin/hawser"

say "start a cluster: hawser up --dir .demo --devices 1"
"$hawser" up --dir "$dir" --devices 1 >"$dir/up.log" 2>&1 &
up=$!
pids="$up"
until_true 60 test -f "$dir/ready.json"
cat "$dir/ready.json"

# agent NAME TARGET EMULATOR: starts one agent as a process of its own.
devices="gw-1"
agent() {
	name=$1 program="$PWD/bin/hawser-edge"
	emulator=""
	if command -v "$3" >/dev/null 2>&1; then
		go run ./cross/cmd/cross -o bin "$2"
		program="$PWD/bin/hawser-edge-$2"
		emulator=$3
	else
		echo "no $3 here: $name is a native agent (as root this script installs qemu-user-static)"
		name="$1-native"
	fi
	token=$("$hawser" token create --kind edge --label kind="$2" 2>/dev/null)
	HAWSER_TOKEN="$token" $emulator "$program" run --state "$dir/$name" --name "$name" >"$dir/$name.log" 2>&1 &
	pids="$! $pids"
	devices="$devices $name"
}
online() { "$hawser" ls | grep -q "^$1 .*online" && grep -q "^Host $1\$" "$dir/ssh_config"; }

say "an agent for mipsle"
agent gw-mipsle mipsle qemu-mipsel-static
say "an agent for arm"
agent gw-arm arm5 qemu-arm-static
say "wait for the agents"
for d in $devices; do until_true 60 online "$d"; done

say "hawser ls"
run "$hawser" ls

for d in $devices; do
	say "a shell on $d"
	printf '$ ssh -F .demo/ssh_config -tt %s\n' "$d"
	printf 'PS1="%s# "\nuname -sm\nenv | grep HAWSER_\nexit\n' "$d" | ssh -F "$dir/ssh_config" -tt "$d"
done

say "a command: output, errors and exit code apart"
code=0
out=$(run ssh -F "$dir/ssh_config" gw-1 'echo out; echo err >&2; exit 7' 2>"$dir/err") || code=$?
printf '%s\n' "$out"
echo "standard error: $(cat "$dir/err"); exit code: $code"
[ "$code" -eq 7 ]

say "end to end: the hub moves bytes it cannot read"
run ssh -F "$dir/ssh_config" e2e-gw-1 'echo "from $HAWSER_DEVICE as $(id -un)"'

say "scp there and back"
head -c 300000 /dev/urandom >"$dir/sent"
for d in $devices; do
	run scp -q -F "$dir/ssh_config" "$dir/sent" "$d:$dir/there-$d"
	run scp -q -F "$dir/ssh_config" "$d:$dir/there-$d" "$dir/back-$d"
	cmp "$dir/sent" "$dir/back-$d"
done
echo "the same bytes"

say "recordings"
run "$hawser" recordings ls
say "play the shell on gw-1"
id=$("$hawser" recordings ls --device gw-1 -o json | awk -F'"' '/"id":/{id=$4} /"kind": "shell"/{print id; exit}')
[ -n "$id" ]
run "$hawser" play --instant "$id"

if [ -t 0 ] && [ -t 1 ]; then
	say "the cluster stays up until Ctrl-C"
	cat <<EOF
In another terminal, from this directory:

  ssh -F .demo/ssh_config gw-1                  a shell, recorded at the hub
  ssh -F .demo/ssh_config gw-mipsle 'cat /proc/version'
  ssh -F .demo/ssh_config e2e-gw-arm            end to end, recorded at the device
  HAWSER_HOME=.demo/home bin/hawser ls -o wide
  HAWSER_HOME=.demo/home bin/hawser recordings ls
  HAWSER_HOME=.demo/home bin/hawser play ID
EOF
	trap 'exit 0' INT # this is how the demo is meant to end
	wait "$up"
fi
say "done"
