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
	nmap nmap ps procps sysctl procps unshare util-linux iptables-legacy iptables conntrack conntrack
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

step unit tests, with the race detector
go test $short -race -timeout 10m $(go list ./... | grep -v -e '^hawser/test/' -e '^hawser/cross')

step targets: sizes, reproducibility, emulated agents
HAWSER_BIN="$PWD/bin" go test $short -timeout 15m ./cross/...

step black box
limit=15m
[ -z "${HAWSER_LONG:-}" ] || limit=90m
table=$(mktemp)
HAWSER_BIN="$PWD/bin" HAWSER_TABLE="$table" go test $short -timeout $limit -p 1 ./test/...
step survival, as measured
cat "$table"
rm -f "$table"
