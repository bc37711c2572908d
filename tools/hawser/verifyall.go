package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/audit"
	"hawser/auth/loghead"
)

// verifyRecordings holds every recording that auth has against what the log, proved under its head, says of it: none was put in, exchanged or
// removed by nobody. What one shows is for `hawser recordings verify ID`, which holds its bytes against the same closing hash.
func verifyRecordings(c *cobra.Command, kept *loghead.Head, keys []ed25519.PublicKey) error {
	if len(keys) == 0 {
		return errors.New("there is no key to check what the auth service says: log in with `hawser login`, or give --key")
	}
	a, err := dial()
	if err != nil {
		return err
	}
	defer a.close()
	found := map[string]audit.Found{}
	list := func() error {
		res, err := a.ListRecordings(c.Context(), connect.NewRequest(&api.ListRecordingsRequest{Limit: 100000, Removed: true}))
		if err != nil {
			return err
		}
		if len(res.Msg.Recordings) == 100000 {
			return errors.New("there are more recordings than are listed at once; use `hawser-auth verify` on a copy of auth's data")
		}
		for _, r := range res.Msg.Recordings {
			id := hex.EncodeToString(r.Id)
			found[id] = audit.Found{ID: id, Removed: r.Removed != nil, Closed: r.Closed, Chunks: r.Chunks, Closing: r.Closing}
		}
		return nil
	}
	// Before the log and after it: what begins meanwhile is in one of the lists.
	if err := list(); err != nil {
		return err
	}
	before := maps.Clone(found)
	r := &api.ExportAuditRequest{Filter: &api.AuditFilter{Type: "recording"}}
	if kept != nil {
		r.OlderHeadSize = kept.Size
	}
	stream, err := a.conn.Audit.ExportAudit(c.Context(), connect.NewRequest(r))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	var export bytes.Buffer
	for stream.Receive() {
		for _, line := range stream.Msg().Lines {
			export.WriteString(line)
			export.WriteByte('\n')
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if err := list(); err != nil {
		return err
	}
	rep, entries, err := audit.ReadExport(&export, keys, kept)
	if err != nil {
		return err
	}
	if strings.Contains(rep.Filter, "what concerns") {
		return errors.New("your roles show you of the log only what concerns you: this is for who may see all of it, such as an auditor")
	}
	logged, err := audit.RecordingsOf(entries)
	if err != nil {
		return err
	}
	faults := rep.Faults
	removed, expired := 0, 0
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if logged[id] == nil {
			faults = append(faults, logged[id].Judge(before[id])...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(logged)) {
		l := logged[id]
		f, ok := found[id]
		if !ok {
			f = audit.Found{ID: id, Absent: true}
		}
		switch {
		case l.Removed != nil && !l.Failed:
			removed++
		case !l.Expired.IsZero():
			expired++
		}
		if f.Closed && !before[id].Closed {
			continue // it was closed while this looked
		}
		faults = append(faults, l.Judge(f)...)
	}
	out := c.OutOrStdout()
	fmt.Fprintf(out, "cluster %s: %d recordings; the log of %d events knows %d, of them %d removed by hand and %d by retention\n", quoteCell(rep.Head.Cluster), len(found), rep.Head.Size,
		len(logged), removed, expired)
	if kept == nil {
		fmt.Fprintln(out, "not held against a head kept elsewhere (--head)")
	}
	for _, f := range faults {
		fmt.Fprintln(out, "CHANGED:", quoteCell(f))
	}
	if len(faults) > 0 {
		return fmt.Errorf("recordings are not what the log holds: %d faults", len(faults))
	}
	fmt.Fprintln(out, "verified: every recording of the log is there, or was removed by somebody")
	return nil
}
