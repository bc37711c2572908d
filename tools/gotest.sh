#!/bin/sh
# gotest.sh FLAGS -- PACKAGES is go test, but for one thing: where one to three
# tests failed, each is run once more by itself. What passes then is written
# down in $HAWSER_AGAIN, for the end of the whole check to name: on a machine
# shared with strangers a test can be late, and whoever looks for the cause
# needs its name, not a stopped check. Races, panics, timeouts and programs
# that do not build are never run again, and the long check runs nothing again.
set -eu
flags=""
while [ "$1" != -- ]; do
	flags="$flags $1"
	shift
done
shift
log=$(mktemp)
failed=$(mktemp)
trap 'rm -f "$log" "$failed"' EXIT
{ go test $flags "$@" 2>&1 || echo "go test ended with $?" >"$failed"; } | tee "$log"
[ -s "$failed" ] || exit 0
if [ -n "${HAWSER_LONG:-}" ] || grep -q -e 'WARNING: DATA RACE' -e '^panic: ' -e '^fatal error: ' -e '\[build failed\]' -e '\[setup failed\]' "$log"; then
	exit 1
fi
# "PACKAGE TEST" for each test that failed. A package that failed without one is not run again.
awk '
	/^--- FAIL: / { tests[++n] = $3 }
	/^FAIL\t/     { if (n == 0) print $2, "?"; for (i = 1; i <= n; i++) print $2, tests[i]; n = 0 }
	/^ok  \t/     { n = 0 }
' "$log" >"$failed"
if [ "$(wc -l <"$failed")" -gt 3 ] || [ ! -s "$failed" ] || grep -q ' ?$' "$failed"; then
	exit 1
fi
while read -r package name; do
	echo "== $name of $package failed; once more, by itself"
	go test $flags -count 1 -run "^$name\$" "$package"
	echo "$name of $package" >>"${HAWSER_AGAIN:-/dev/null}"
done <"$failed"
