# Sourced by the other scripts: need PROGRAM PACKAGE ... makes sure that each
# program is there, installing its Debian package when root. What cannot be
# installed is named, once, in $missing.
missing=""
updated=""
need() {
	wanted=""
	names=""
	while [ $# -gt 1 ]; do
		if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; then
			wanted="$wanted $2"
			names="$names $1"
		fi
		shift 2
	done
	[ -n "$wanted" ] || return 0
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "installing:$wanted"
		if [ -z "$updated" ]; then
			apt-get update -qq >/dev/null 2>&1 || true
			updated=1
		fi
		if DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null 2>&1; then
			return 0
		fi
		# One package that is not to be had must not keep out the rest.
		for p in $wanted; do
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$p" >/dev/null 2>&1 || missing="$missing $p"
		done
		return 0
	fi
	missing="$missing$wanted"
	echo "not here, and only root can install it:$names (Debian:$wanted)"
}
