package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/attest"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/recorder/unseal"
	"hawser/tools/hawser/profile"
	"hawser/tunnel/wire"
)

// errNotVerified ends `recordings verify` after its findings were printed.
var errNotVerified = errors.New("the recording is not verified")

func newRecordingsVerify() *cobra.Command {
	var pins []string
	var format string
	var ids identities
	c := &cobra.Command{
		Use:   "verify ID|FILE",
		Short: "Tell whether a recording is as it was made, and as its device says that it passed",
		Long: `Verify a recording: that no byte, chunk or end of it was changed, moved or removed; that it was signed by the hub or device that its header names,
under a certificate of the cluster; and that what it says passed is what the device says passed, where a hub recorded.

Who was to record the session, and when that was, it takes from auth and not from the recording: asked now, or as auth signed it for the file.

A file is one of ` + "`hawser recordings export ID --chunks --file FILE`" + `, and holds the certificates: no cluster has to be reached. The cluster's CA is
that of the profile, or the one whose pin is given with --pin: the pin that ` + "`hawser login --ca-pin`" + ` takes, of a recording from before a
rotation the pin of then. Exit status 1: something is wrong with it, as it says.

Of one that is encrypted to auditors the chain, the end and the signatures are checked without a key, and with --identity all the rest.`,
		Example: "  hawser recordings verify 5f0c2a\n  hawser recordings verify evidence.hwr --pin sha256:...",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			v, err := verifyRecording(c, args[0], pins, &ids)
			if err != nil {
				return err
			}
			if format != formatTable {
				if err := data(c.OutOrStdout(), format, v); err != nil {
					return err
				}
			} else {
				v.print(c)
			}
			if len(v.Faults) > 0 {
				return errNotVerified
			}
			return nil
		},
	}
	ids.add(c)
	c.Flags().StringArrayVar(&pins, "pin", nil, "believe the CA with this pin, in place of the profile's; may be repeated")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json or yaml")
	return c
}

// verified is what was found of a recording.
type verified struct {
	ID       string   `json:"id,omitempty" yaml:"id,omitempty"`
	User     string   `json:"user,omitempty" yaml:"user,omitempty"`
	Login    string   `json:"login,omitempty" yaml:"login,omitempty"`
	Device   string   `json:"device,omitempty" yaml:"device,omitempty"`
	Start    string   `json:"start,omitempty" yaml:"start,omitempty"`
	Chunks   uint64   `json:"chunks" yaml:"chunks"`
	Complete bool     `json:"complete" yaml:"complete"`
	Signer   string   `json:"signer,omitempty" yaml:"signer,omitempty"`
	Witness  string   `json:"witness,omitempty" yaml:"witness,omitempty"` // match, sums, mismatch, or why there is none
	Notes    []string `json:"notes,omitempty" yaml:"notes,omitempty"`
	Faults   []string `json:"faults,omitempty" yaml:"faults,omitempty"`
}

// Values of verified.Witness.
const (
	witnessMatch    = "match"
	witnessSums     = "sums"
	witnessMismatch = "mismatch"
)

// plainly is text that came with a recording, for a terminal: a stranger made it.
func plainly(s string) string {
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(wire.Quote(s, maxShown))
}

// maxShown bounds that in bytes.
const maxShown = 2 << 10

func (v *verified) print(c *cobra.Command) {
	out := c.OutOrStdout()
	if v.ID != "" {
		fmt.Fprintf(out, "recording %s: %s as %s on %s, %s, %d chunks\n", v.ID, v.User, v.Login, v.Device, v.Start, v.Chunks)
	}
	if v.Signer != "" {
		fmt.Fprintf(out, "signed by %s\n", v.Signer)
	}
	switch v.Witness {
	case witnessMatch:
		fmt.Fprintln(out, "as the device says that it passed")
	case witnessSums:
		fmt.Fprintln(out, "in its recorder's sums as the device says that it passed")
	}
	for _, n := range v.Notes {
		fmt.Fprintf(out, "note: %s\n", n)
	}
	for _, f := range v.Faults {
		fmt.Fprintf(out, "FAULT: %s\n", f)
	}
	if len(v.Faults) == 0 {
		fmt.Fprintln(out, "verified")
	}
}

func verifyRecording(c *cobra.Command, name string, pins []string, ids *identities) (*verified, error) {
	s, err := openSource(c.Context(), name)
	if err != nil {
		return nil, err
	}
	defer s.close()
	evidence, err := evidenceOf(s, name)
	if err != nil && !errors.Is(err, reader.ErrNoEvidence) {
		return nil, err
	}
	v := new(verified)
	switch err := s.unlock(c, ids); {
	case errors.Is(err, unseal.ErrNoKey): // given once for all recordings, perhaps: it is verified as without one
		v.note("%v", err)
	case err != nil && !errors.Is(err, errEncrypted):
		return nil, err
	}
	if err != nil {
		v.Faults = append(v.Faults, "the file holds no certificates, so there is no telling who made it; export it with `hawser recordings export ID --chunks`")
	}
	anchors, err := openAnchors(evidence, pins)
	if err != nil {
		return nil, err
	}
	word := wordOf(s.told)
	if word == nil {
		if word, err = anchors.word(evidence); err != nil {
			v.fault("%v", err)
		}
	}
	rep, err := reader.VerifyWith(s.next, reader.Check{
		Sealed: true, Open: s.open,
		Recorder: func(h recorder.Header, message, signature []byte) bool {
			who, key, err := anchors.recorder(h, evidence, word)
			if err != nil {
				v.fault("%v", err)
				return false
			}
			v.Signer = plainly(who)
			return ed25519.Verify(key, message, signature)
		},
		Device: func(h recorder.Header, message, signature []byte) bool {
			_, key, err := anchors.leaf(h, evidence.Device, ca.RoleDevice, h.DeviceUUID, word)
			if err != nil {
				v.fault("the device: %v", err)
				return false
			}
			return ed25519.Verify(key, message, signature)
		},
	})
	v.take(rep, err)
	v.compare(rep, err, word)
	if word != nil && !word.Complete && err == nil && !rep.Complete {
		v.fault("it is incomplete: its recorder was cut off, or records still, so that nothing signs what is there; that much is unbroken")
	}
	return v, nil
}

// compare holds a recording against what auth says of it.
func (v *verified) compare(rep reader.Report, err error, word *attest.Word) {
	h := rep.Header
	switch {
	case word == nil:
		if err == nil && !rep.Complete {
			v.fault("it is truncated, or was never closed by its recorder: its end is missing, and nothing signs the rest")
		}
		return
	case h.ID == [16]byte{}: // not even that can be read
		return
	case h.ID != word.ID:
		v.fault("it is the recording %x, and auth speaks of %x", h.ID, word.ID)
		return
	case h.User != word.User || h.Login != word.Login || h.DeviceUUID != word.Device:
		v.fault("its header says %q as %q on %q, and auth knows it as a session of %q as %q on %q", h.User, h.Login, h.DeviceUUID, word.User, word.Login, word.Device)
	case (h.Way == policy.WayHub) != (word.Recorder == recordedByHub) || word.Way != "" && h.Way != word.Way:
		v.fault("its header says that the session came by the way %q, and auth that a %s was to record it, which came by %q", h.Way, word.Recorder, word.Way)
	}
	switch {
	case word.Complete && !rep.Complete && err == nil:
		v.fault("it is truncated: auth says that it was closed, and its end is missing")
	case word.Closing == [32]byte{} && rep.Complete && err == nil:
		v.fault("auth gave its word on it before it was closed, so that nothing says that it ended so: verify it by its id, or export it again")
	case word.Closing != [32]byte{} && err == nil && word.Closing != rep.Last:
		v.fault("its last chunk is not the one that auth wrote into the log as it closed")
	}
	if off := h.Start.Sub(word.Start).Abs(); off > maxClockOff {
		v.note("its recorder's clock said %s, auth's %s", h.Start.UTC().Format(time.RFC3339), word.Start.UTC().Format(time.RFC3339))
	}
}

// maxClockOff is how far a recorder's clock may be from auth's without a word.
const maxClockOff = 10 * time.Minute

// recordedByHub is attest.Word.Recorder of what a hub records.
const recordedByHub = "hub"

// wordOf is what auth says of a recording that it keeps; nil: it was not asked.
func wordOf(t *api.Recording) *attest.Word {
	if t == nil || len(t.Id) != 16 {
		return nil
	}
	w := &attest.Word{
		ID: [16]byte(t.Id), User: t.User, Login: t.Login, Device: t.DeviceUuid, Recorder: "device", Way: t.Way,
		Start: time.Unix(0, t.StartUnixNano), Complete: t.Complete,
	}
	if t.Way == policy.WayHub {
		w.Recorder = recordedByHub
	}
	if last, err := hex.DecodeString(strings.TrimPrefix(t.Closing, "sha256:")); err == nil && len(last) == len(w.Closing) {
		w.Closing = [32]byte(last)
	}
	return w
}

func (v *verified) fault(format string, args ...any) {
	v.Faults = append(v.Faults, plainly(fmt.Sprintf(format, args...)))
}

func (v *verified) note(format string, args ...any) {
	v.Notes = append(v.Notes, plainly(fmt.Sprintf(format, args...)))
}

// take says in words what the reader found.
func (v *verified) take(rep reader.Report, err error) {
	h := rep.Header
	if h.ID != [16]byte{} {
		v.ID, v.User, v.Login, v.Device = hex.EncodeToString(h.ID[:]), plainly(h.User), plainly(h.Login), plainly(h.Device)
		v.Start = h.Start.UTC().Format(time.RFC3339)
	}
	v.Chunks, v.Complete = rep.Chunks, rep.Complete
	switch {
	case errors.Is(err, reader.ErrSignature):
		if rep.Head == nil || rep.Head.Signature == nil {
			v.fault("it is not signed")
		} else if len(v.Faults) == 0 {
			v.Signer = ""
			v.fault("the signature at its end is not by who its header says made it, or what is before it was changed")
		}
	case errors.Is(err, reader.ErrWitness):
		v.Witness = witnessMismatch
		v.fault("%s", strings.TrimPrefix(err.Error(), "recording: "))
	case errors.Is(err, io.EOF):
		v.fault("it is truncated: not even its first chunk is whole")
	case err != nil:
		v.fault("%s", strings.NewReplacer("recorder: ", "", "recording: ", "").Replace(err.Error()))
	}
	if rep.Sealed {
		v.note("it is encrypted to auditors: its order, end and signatures were checked, " +
			"and what is in it against the witness only as far as its recorder's own sums go; --identity FILE looks into it")
	}
	if rep.Gaps > 0 {
		v.note("%d bytes of it are missing, as it says itself", rep.Missing)
	}
	if h.Unkept != 0 {
		v.note("the bytes of the file transfer are not in it: what it says was done to files is its recorder's word")
	}
	if rep.Head == nil || h.Way != policy.WayHub || err != nil {
		return
	}
	v.Witness = plainly(rep.Head.Unwitnessed)
	switch {
	case rep.Summed:
		v.Witness = witnessSums
	case rep.Witnessed:
		v.Witness = witnessMatch
		if rep.Untaken > 0 {
			v.note("the last %d bytes of input are not known to have reached the device before the session ended", rep.Untaken)
		}
	case v.Witness == recorder.WithoutLost:
		v.note("the device says nothing of it: its connection was lost and did not come back, says the hub")
	case v.Witness == recorder.WithoutEnded:
		v.note("the device says nothing of it: the hub ended the session without waiting for the device")
	case v.Witness == recorder.WithoutUnstored:
		v.note("the device says nothing of it: the session ended because it could not be recorded")
	case v.Witness == recorder.WithoutAgent:
		v.note("nobody but the hub says what passed: the hub logged in to a server without an agent")
	case v.Witness == recorder.WithoutNone:
		v.note("the device says nothing of it: its agent is of before there were witnesses, says the hub; auth alarms if that cannot be")
	default:
		v.fault("it lacks the device's witness, and says no reason why")
	}
}

// evidenceOf is what came with a recording.
func evidenceOf(s *recordingSource, name string) (reader.Evidence, error) {
	if s.told != nil {
		return reader.ParseEvidence(s.evidence)
	}
	f, err := os.Open(name)
	if err != nil {
		return reader.Evidence{}, err
	}
	defer f.Close()
	return reader.FileEvidence(f)
}

// anchors are the CAs that are believed: those of a bundle, or those with one of the pins.
type anchors struct {
	trust *ca.Trust
	pins  []string
}

// openAnchors finds what to believe: given pins, or what the profile trusts.
func openAnchors(e reader.Evidence, pins []string) (anchors, error) {
	a := anchors{pins: pins}
	if len(pins) == 0 {
		blob, err := profileTrust()
		if err != nil {
			return a, err
		}
		if a.trust, err = ca.OpenStoredTrust(blob); err != nil {
			return a, fmt.Errorf("read the trust bundle of the profile: %w", err)
		}
		pins = a.trust.Pins()
	}
	// A bundle of another time, signed by one that is believed, may know of more.
	if t, err := ca.OpenTrust(e.Trust, pins...); err == nil && (a.trust == nil || t.Cluster == a.trust.Cluster) {
		a.trust = t
	}
	return a, nil
}

func profileTrust() ([]byte, error) {
	none := errors.New("there is no profile to say which cluster is believed: give its pin with --pin, or log in with `hawser login`")
	dir, err := profile.DefaultDir()
	if err != nil {
		return nil, err
	}
	p, err := profile.Open(dir)
	if errors.Is(err, profile.ErrNone) {
		return nil, none
	}
	if err != nil {
		return nil, err
	}
	defer p.Close()
	blob, err := p.Trust()
	if err != nil {
		return nil, none
	}
	return blob, nil
}

// word is what auth signed of a file.
func (a anchors) word(e reader.Evidence) (*attest.Word, error) {
	none := errors.New("the file holds no word of auth on who was to record the session, and when: its own header may say anything; " +
		"export it again with `hawser recordings export ID --chunks`")
	if len(e.Word) == 0 || a.trust == nil {
		return nil, none
	}
	w, err := attest.Open(e.Word, a.trust.GrantKeys)
	if err != nil || w.Cluster != a.trust.Cluster {
		return nil, none
	}
	return w, nil
}

// recorder is who should have signed a recording: as auth says, or where nobody has its word as the recording does.
func (a anchors) recorder(h recorder.Header, e reader.Evidence, word *attest.Word) (string, ed25519.PublicKey, error) {
	byHub := h.Way == policy.WayHub
	if word != nil {
		byHub = word.Recorder == recordedByHub
	}
	if byHub {
		who, key, err := a.leaf(h, e.Hub, ca.RoleHub, h.Hub, word)
		if err != nil {
			err = fmt.Errorf("the hub: %w", err)
		}
		return "the hub " + who, key, err
	}
	who, key, err := a.leaf(h, e.Device, ca.RoleDevice, h.DeviceUUID, word)
	if err != nil {
		err = fmt.Errorf("the device: %w", err)
	}
	return "the device " + who, key, err
}

// leaf holds a chain against what is believed, at the time of the recording: auth's, or where nobody has its word the recording's own.
func (a anchors) leaf(h recorder.Header, der []byte, role ca.Role, name string, word *attest.Word) (string, ed25519.PublicKey, error) {
	if len(der) == 0 {
		return "", nil, errors.New("no certificate came with the recording")
	}
	chain, err := x509.ParseCertificates(der)
	if err != nil {
		return "", nil, fmt.Errorf("its certificate: %w", err)
	}
	trusts := []*ca.Trust{a.trust}
	for _, pin := range a.pins {
		if t, err := ca.PinnedTrust(chain, h.Cluster, pin); err == nil {
			trusts = append(trusts, t)
		}
	}
	err = errors.New("no CA is believed that issued its certificate; give the pin of the cluster's CA with --pin")
	for _, t := range trusts {
		if t == nil {
			continue
		}
		var id ca.Identity
		// It was kept as the recording was closed; a renewal during the session is of after its start.
		at := h.Start
		if word != nil {
			at = word.Start
		}
		if leaf := chain[0]; at.Before(leaf.NotBefore) && leaf.NotBefore.Sub(at) < maxSessionAge {
			at = leaf.NotBefore
		}
		if id, err = ca.VerifyPeer(chain, t, at); err != nil {
			err = fmt.Errorf("its certificate does not hold: %w", err)
			continue
		}
		key, ok := chain[0].PublicKey.(ed25519.PublicKey)
		switch {
		case !ok || id.Role != role || id.UUID != name && id.Name != name:
			return "", nil, fmt.Errorf("the certificate is of the %s %q, and the header says %q", id.Role, id.Name, name)
		case role == ca.RoleHub && word != nil && word.Hub != "" && word.Hub != id.UUID:
			return "", nil, fmt.Errorf("the certificate is of the hub %q, and auth says that another was to record the session", id.Name)
		case id.Cluster != h.Cluster:
			return "", nil, fmt.Errorf("the certificate is of the cluster %q, and the header says %q", id.Cluster, h.Cluster)
		}
		return id.Name, key, nil
	}
	return "", nil, err
}

// maxSessionAge is how long after a recording's start its hub or device may have had its certificate renewed.
const maxSessionAge = 90 * 24 * time.Hour
