#!/bin/sh
# The whole check, in the order of what fails fastest. `make test` runs it from
# a clean clone; HAWSER_LONG=1 gives the stated periods and counts.
set -eu
cd "$(dirname "$0")/.."
. tools/need.sh
export PATH="$PATH:/usr/sbin:/sbin"

command -v go >/dev/null 2>&1 || { echo "go is not in PATH: install Go 1.26 first" >&2; exit 1; }
need ssh openssh-client sshd openssh-server rsync rsync tmux tmux nft nftables ip iproute2 ss iproute2 \
	qemu-mips-static qemu-user-static dbclient dropbear-bin plink putty-tools curl curl ssh-audit ssh-audit \
	Xvfb xvfb xauth xauth xdpyinfo x11-utils sshfs sshfs fusermount3 fuse3 git git ansible-playbook ansible-core sudo sudo setfacl acl \
	asciinema asciinema nmap nmap ps procps sysctl procps unshare util-linux iptables-legacy iptables conntrack conntrack \
	node nodejs busybox busybox npm npm
# A browser is large: pages of recordings are opened in one where it is, and by make test-long.
[ -z "${HAWSER_LONG:-}" ] || need chromium chromium
# The clients' script runs under Debian's interpreter; another python3 may come
# first in PATH.
if ! /usr/bin/python3 -c 'import paramiko' >/dev/null 2>&1; then
	need paramiko-for-python3 python3-paramiko
fi
short=""
if [ "$(id -u)" != 0 ]; then
	short=-short
	echo "not root: logins, network namespaces and the agents under emulation are left out; as root make test runs all of it"
elif [ -n "$missing" ]; then
	echo "make test needs these Debian packages, and could not install them:$missing" >&2
	exit 1
fi

# A nearly full disk fails tests in many ways, none of which says so.
tmp=${TMPDIR:-/tmp}
free=$(df -Pk "$tmp" | awk 'NR == 2 { print int($4 / 1024) }')
if [ "$free" -lt 4096 ]; then
	echo "make test needs 4096 MiB of free disk in $tmp, there are $free: free some (go clean -cache gives back what Go's builds keep), or set TMPDIR" >&2
	exit 1
fi

# Tests that were not run, and those that passed only when they were run again,
# are named whatever comes.
HAWSER_AGAIN=$(mktemp)
HAWSER_SKIPPED=$(mktemp)
export HAWSER_AGAIN HAWSER_SKIPPED
table=$(mktemp)
named() {
	if [ -s "$HAWSER_SKIPPED" ]; then
		echo "== not run here, and why"
		sort "$HAWSER_SKIPPED" | awk -F '\t' '
			$1 != why { if (n) print line(); why = $1; which = $2; n = 0 }
			{ n++ }
			END { print line() }
			function line() { return n ": " why " (" which (n > 1 ? " and others" : "") ")" }'
	fi
	if [ -s "$HAWSER_AGAIN" ]; then
		echo "== passed only when run again, by itself: find the cause"
		cat "$HAWSER_AGAIN"
	fi
	rm -f "$HAWSER_AGAIN" "$HAWSER_SKIPPED" "$table"
}
trap named EXIT

step() { printf '== %s\n' "$*"; }

step gofmt
fmt=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$fmt" ] || { echo "gofmt would change: $fmt" >&2; exit 1; }
step go vet
go vet ./...
step staticcheck
go tool staticcheck ./...
step govulncheck
# The database is on the network: where it cannot be reached that is said, and
# only that is forgiven.
vuln=$(mktemp)
if go tool govulncheck ./... >"$vuln" 2>&1; then
	tail -n 1 "$vuln"
elif grep -q -e 'dial tcp' -e 'no such host' -e 'Forbidden' -e 'connection refused' -e 'i/o timeout' -e 'fetching vulnerabilities' -e 'vuln.go.dev' "$vuln"; then
	echo "govulncheck could not reach its database: not run"
else
	cat "$vuln" >&2
	rm -f "$vuln"
	exit 1
fi
rm -f "$vuln"

step programs
make -s build
gotest=$PWD/bin/gotest
go build -o "$gotest" ./tools/gotest

step unit tests, with the race detector
# Four at a time: the longest wait for clocks more than they compute.
limit=10m
[ -z "${HAWSER_LONG:-}" ] || limit=40m
"$gotest" $short -race -p 4 -timeout $limit -- $(go list ./... | grep -v -e '^hawser/test/' -e '^hawser/cross')
if [ -n "${HAWSER_LONG:-}" ]; then
	step memory of an idle device
	go test -count 1 -v -run TestAnIdleDeviceCostsTheHubLittle ./hub
	step memory of the store
	go test -count 1 -v -run TestAHundredSessionsFitASmallMachine ./auth/store
	go test -count 1 -v -run TestAThousandHoursAreSearchedInASecond ./auth
fi

# The programs that these run are no inputs of theirs to go test: from its cache
# they would pass whatever has become of those.
step targets: sizes, reproducibility, emulated agents
HAWSER_BIN="$PWD/bin" "$gotest" $short -count 1 -timeout 15m -- ./cross/...

step black box
limit=15m
[ -z "${HAWSER_LONG:-}" ] || limit=90m
export HAWSER_BIN="$PWD/bin" HAWSER_TABLE="$table"
# These measure nothing, and wait more than they compute: two at a time, the
# longest first. With their stated counts clients compute all the time.
waiting="./test/access/... ./test/ways/... ./test/record/... ./test/cluster/... ./test/store/..."
[ -z "${HAWSER_LONG:-}" ] || waiting="./test/access/... ./test/record/... ./test/store/..."
waiting=$(go list $waiting)
"$gotest" $short -count 1 -timeout $limit -p 2 -- $waiting
"$gotest" $short -count 1 -timeout $limit -p 1 -- $(go list ./test/... | grep -v -x -F "$waiting")
step survival, and the clients beside a plain sshd
cat "$table"
