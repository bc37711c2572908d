package policy

// Reaches tells whether a user who holds the roles named may open anything on the device in a way; an empty way is any. It says what
// Access would say, and stops at the first that is allowed: a hub asks it of ten thousand devices for one list.
func (c Compiled) Reaches(roleNames []string, way string) bool {
	a := c.held(roleNames)
	ways := allWays
	if way != "" {
		ways = []string{way}
	}
	for i := range a.roles {
		if a.roles[i].allow != nil && a.reaches(a.roles[i].allow, ways) {
			return true
		}
	}
	return false
}

func (a Access) reaches(allow *compiledRule, ways []string) bool {
	for _, other := range a.roles {
		if other.allow == nil {
			continue
		}
		for _, login := range other.allow.logins {
			for _, channel := range evaluated {
				for _, way := range ways {
					if allow.admits(login, channel, way) && !a.denied(login, channel, way) {
						return true
					}
				}
			}
		}
	}
	return false
}
