package audit

import "hawser/auth/loghead"

// Head is the state of the log.
type Head = loghead.Head
