#!/bin/sh
# Runs every fuzz target of the tree for the time given, one after the other.
set -eu
cd "$(dirname "$0")/.."
time=${1:-30s}
git grep -l '^func Fuzz' -- '*_test.go' | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file" | while read -r name; do
		printf '== %s %s\n' "$(dirname "$file")" "$name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")"
	done
done
