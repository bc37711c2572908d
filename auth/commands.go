package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"

	"hawser/auth/audit"
	"hawser/auth/store"
	"hawser/recorder/commands"
	"hawser/recorder/reader"
)

// tellCommands writes into the audit log what was run in a session whose recording has ended.
func (s *Server) tellCommands(ctx context.Context, m store.Manifest) {
	list, err := commands.Find(reader.New(chunksFrom(ctx, s.recordings, m.ID, 0)))
	if ctx.Err() != nil || len(list) == 0 {
		return
	}
	if err != nil && !errors.Is(err, reader.ErrSealed) { // what comes before is told
		s.log.Warn("a recording's commands are not known to its end", "session", hex.EncodeToString(m.ID[:]), "error", err)
	}
	e := Event{
		Type: "session.commands", Actor: "auth", Session: hex.EncodeToString(m.ID[:]), User: m.User, Login: m.Login, Device: m.Device, DeviceUUID: m.DeviceUUID,
		Way: m.Way, Client: m.ClientAddr, Count: uint64(len(list)),
	}
	for part := range slices.Chunk(list[:min(len(list), maxCommandEvents*audit.MaxCommands)], audit.MaxCommands) {
		e.Commands = nil
		for _, c := range part {
			e.Commands = append(e.Commands, audit.Command{Time: m.Start.Add(c.At), Text: c.Text, Source: c.Source, Confidence: c.Confidence, User: c.User})
		}
		s.record(e)
	}
}
