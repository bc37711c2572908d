package wire

// The layout of every control message: tag, value, limit, in the order of PROTOCOL.md.

func (m *Challenge) fields(c *codec) {
	c.u16(1, &m.Version)
	c.array(2, m.HubUUID[:])
	c.str(3, &m.HubName, maxCluster)
	c.str(4, &m.Cluster, maxCluster)
	c.array(5, m.HubIncarnation[:])
	c.array(6, m.Nonce[:])
}

func (m *Join) fields(c *codec) {
	c.bytes(1, &m.Secret, maxSecret)
	c.str(2, &m.Name, maxName)
	c.text(3, &m.Hostname, maxHostname)
	c.labels(4, &m.Labels)
	c.labels(5, &m.Evidence)
	c.text(6, &m.Arch, maxVersion)
	c.text(7, &m.OS, maxVersion)
	c.text(8, &m.AgentVersion, maxVersion)
}

func (m *Joined) fields(c *codec) {
	c.array(1, m.UUID[:])
	c.str(2, &m.Name, maxName)
	c.str(3, &m.Cluster, maxCluster)
	c.blobs(4, &m.Chain, maxChain, maxCert)
	c.bytes(5, &m.SSHCert, maxCert)
	c.bytes(6, &m.Trust, maxBlob)
	c.strs(7, &m.Hubs, maxHubs, maxTarget)
	c.u64(8, &m.Counter)
}

func (m *Refused) fields(c *codec) {
	number(c, 1, &m.Code, 2)
	c.text(2, &m.Message, maxText)
	c.duration(3, &m.RetryAfter)
	c.bytes(4, &m.Order, maxGrant)
}

func (m *Register) fields(c *codec) {
	c.array(1, m.UUID[:])
	c.array(2, m.Hub[:])
	c.array(3, m.Incarnation[:])
	c.u8(4, &m.Slot)
	c.u64(5, &m.Counter)
	c.bytes(6, &m.Signature, maxSignature)
	c.array(7, m.TimeNonce[:])
	c.nested(8, MaxControl, m.Info.fields)
}

func (m *Info) fields(c *codec) {
	c.str(1, &m.Name, maxName)
	c.text(2, &m.Hostname, maxHostname)
	c.text(3, &m.AgentVersion, maxVersion)
	c.text(4, &m.Arch, maxVersion)
	c.text(5, &m.OS, maxVersion)
	c.labels(6, &m.Labels)
	c.strs(7, &m.Addresses, maxAddresses, maxAddress)
	c.u32(8, &m.UID)
	c.strs(9, &m.Logins, maxLogins, maxLogin)
	c.flag(10, &m.Restart)
	c.str(11, &m.Listen, maxAddress)
	c.flag(12, &m.TunnelOff)
}

func (m *Ack) fields(c *codec) {
	c.array(1, m.HubIncarnation[:])
	c.duration(2, &m.Heartbeat)
	c.duration(3, &m.RetryWindow)
	c.u16(4, &m.MaxStreams)
	c.addrPort(5, &m.Observed)
	c.u64(6, &m.LockRevision)
	c.u64(7, &m.PolicyRevision)
	c.bytes(8, &m.Time, maxBlob)
	c.strs(9, &m.Hubs, maxHubs, maxTarget)
	c.array(10, m.ProbeKey[:])
}

func (m *Policy) fields(c *codec) { c.bytes(1, &m.Blob, maxBlob) }

func (m *Locks) fields(c *codec) {
	c.u64(1, &m.Revision)
	c.bytes(2, &m.Blob, maxBlob)
}

func (m *Trust) fields(c *codec) { c.bytes(1, &m.Blob, maxBlob) }

func (m *Time) fields(c *codec) { c.bytes(1, &m.Blob, maxBlob) }

func (m *PolicyHeld) fields(c *codec) {
	c.u64(1, &m.Policy)
	c.u64(2, &m.Locks)
	c.u64(3, &m.Hubs)
}

func (m *Renew) fields(c *codec) { c.u64(1, &m.Counter) }

func (m *Renewed) fields(c *codec) {
	c.blobs(1, &m.Chain, maxChain, maxCert)
	c.bytes(2, &m.SSHCert, maxCert)
	c.bytes(3, &m.Trust, maxBlob)
	c.u64(4, &m.Counter)
}

func (m *PlaceRequest) fields(c *codec) {
	c.u32(1, &m.ID)
	number(c, 2, &m.Kind, 1)
	c.array(3, m.ConnectionID[:])
	c.array(4, m.SessionID[:])
	c.bytes(5, &m.UserCert, maxCert)
	c.str(6, &m.Login, maxLogin)
	c.addrPort(7, &m.ClientAddr)
	c.str(8, &m.Channel, maxVersion)
	c.text(9, &m.Command, maxCommand)
	c.flag(10, &m.Direct)
	c.str(11, &m.Join, maxVersion)
	c.str(12, &m.JoinMode, maxVersion)
}

func (m *PlaceReply) fields(c *codec) {
	c.u32(1, &m.ID)
	c.bytes(2, &m.Grant, maxGrant)
	c.text(3, &m.Refusal, maxText)
	c.u32(4, &m.MaxChannels)
	c.duration(5, &m.Lease)
	c.flag(6, &m.Later)
}

func (m *Release) fields(c *codec) {
	c.array(1, m.SessionID[:])
	c.i32(2, &m.ExitStatus)
	c.text(3, &m.Reason, maxText)
}

func (m *UploadWanted) fields(c *codec) {
	c.array(1, m.RecordingID[:])
	c.bytes(2, &m.Grant, maxGrant)
}

func (m *GoAway) fields(c *codec) {
	number(c, 1, &m.Code, 2)
	c.text(2, &m.Reason, maxText)
	c.duration(3, &m.RetryAfter)
	c.duration(4, &m.Deadline)
}

func (m *HubList) fields(c *codec) { c.bytes(1, &m.Blob, maxBlob) }

func (m *Denial) fields(c *codec) {
	c.addrPort(1, &m.ClientAddr)
	c.text(2, &m.Name, maxName)
	c.text(3, &m.Login, maxLogin)
	c.text(4, &m.Reason, maxName)
}

func (m *ControlWanted) fields(*codec) {}

func (m *Forwarded) fields(c *codec) {
	c.array(1, m.ConnectionID[:])
	c.bytes(2, &m.Sealed, maxForwarded)
}

func (m *LogHead) fields(c *codec) {
	c.u64(1, &m.Size)
	c.array(2, m.Root[:])
	c.u64(3, &m.Time)
	c.bytes(4, &m.Signature, maxSignature)
	c.u64(5, &m.Older)
	c.bytes(6, &m.Proof, maxLogProof)
}

func (m *LogWanted) fields(c *codec) {
	c.u64(1, &m.Older)
	c.u64(2, &m.Newer)
	c.flag(3, &m.Fork)
	c.array(4, m.Root[:])
	c.u64(5, &m.Time)
	c.bytes(6, &m.Signature, maxSignature)
}

func (m *Kill) fields(c *codec) {
	c.array(1, m.SessionID[:])
	c.text(2, &m.Reason, maxText)
}

func (m *Tell) fields(c *codec) {
	c.array(1, m.SessionID[:])
	c.u8(2, &m.What)
	c.text(3, &m.User, maxLogin)
	c.text(4, &m.Text, maxText)
}
