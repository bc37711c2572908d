package policy

// Pending returns what a role states that is understood and kept, but not yet in force: each beginning with the path of its
// key and saying what happens instead. Whoever stores a role must be told: an option that does nothing is believed in.
//
// A key leaves this list with the change that puts it in force.
func Pending(r Role) []string {
	p := &pending{}
	const at = "options."
	o := r.Options
	p.add(o.CreateHostUser != "" && o.CreateHostUser != "off", at+"create_host_user", "no account is made")
	p.add(len(o.HostGroups) > 0, at+"host_groups", "no account is made")
	p.add(len(o.Sudoers) > 0, at+"sudoers", "no account is made")
	return p.list
}

// PendingCluster is Pending for a cluster.
func PendingCluster(c Cluster) []string {
	p := &pending{}
	return p.list
}

type pending struct{ list []string }

func (p *pending) add(stated bool, path, instead string) {
	if stated {
		p.list = append(p.list, path+" is kept, and in force from a later version; until then "+instead)
	}
}
