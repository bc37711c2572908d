package harness

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Device is what `hawser show -o json` says of a device.
type Device struct {
	Name         string            `json:"name"`
	UUID         string            `json:"uuid"`
	Online       bool              `json:"online"`
	Labels       map[string]string `json:"labels"`
	Hub          string            `json:"hub"`
	Carrier      string            `json:"carrier"`
	Address      string            `json:"address"`
	Arch         string            `json:"arch"`
	CertNotAfter time.Time         `json:"certificate_not_after"`
}

// Show asks for one device.
func (c *Cluster) Show(t testing.TB, name string) (Device, error) {
	t.Helper()
	r := c.Hawser(t, nil, "show", "-o", "json", name)
	if r.Code != 0 {
		return Device{}, fmt.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	var d Device
	return d, json.Unmarshal(r.Stdout, &d)
}

// Agent starts an agent that joins the cluster by a new token, and waits until
// it is online and in the cluster's ssh_config. command is the program, with an
// emulator before it where one is wanted.
func (c *Cluster) Agent(t testing.TB, name string, command ...string) *Process {
	t.Helper()
	token := c.Must(t, "token", "create", "--kind", "edge")
	args := append(command[1:], "run", "--state", t.TempDir(), "--name", name)
	p := Start(t, []string{"HAWSER_TOKEN=" + token}, command[0], args...)
	Eventually(t, 60*time.Second, name+" joins and is online", func() bool {
		select {
		case <-p.Done():
			t.Fatalf("the agent ended: %v\n%s", p.Err(), p.Output())
		default:
		}
		d, err := c.Show(t, name)
		return err == nil && d.Online && strings.Contains(ReadFile(t, c.Ready.SSHConfig), "Host "+name+"\n")
	})
	return p
}
