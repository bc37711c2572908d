package edge

import "hawser/tunnel"

// refusals counts what is refused of peers, by kind, and logs each kind the first time: a peer that repeats itself fills no log. Safe for concurrent use.
type refusals struct {
	log tunnel.Logger
	tunnel.Tally
}

func (r *refusals) add(what string, err error, kv ...any) {
	log := tunnel.Debug
	if r.Add(what) {
		log = tunnel.Warn
	}
	log(r.log, "refused; more like it are counted, see hawser-edge doctor", append([]any{"what", what, "error", err}, kv...)...)
}
