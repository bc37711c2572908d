// Package indextest makes up recordings for benchmarks and tests: the shell sessions of people who look after devices, hours of them, the
// same for the same seed.
package indextest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Session is one person's shell session.
type Session struct {
	r    *rand.Rand
	host string
	dir  string
	now  time.Time
	pids int
}

// NewSession begins one.
func NewSession(seed uint64) *Session {
	r := rand.New(rand.NewPCG(seed, 0x6861777365720a))
	return &Session{r: r, host: fmt.Sprintf("gw-%d", 1+r.IntN(2000)), dir: "~", pids: 200 + r.IntN(3000),
		now: time.Unix(1_780_000_000+int64(r.IntN(20_000_000)), 0).UTC()}
}

// Step is something that a terminal was sent, and how long after the step before.
type Step struct {
	After time.Duration
	Bytes []byte
}

var (
	services = strings.Fields("modbusd dropbear ntpd mqtt-bridge lte-watch snmpd collectd dnsmasq hostapd gpsd syslogd crond wpa_supplicant rauc " +
		"telegraf opcua-server canlogger firmware-agent fwupdate vpn-keeper metrics-push sensor-poll")
	verbs = strings.Fields("connected disconnected timeout retrying started stopped failed accepted refused renewed expired dropped queued sent " +
		"received parsed rejected opened closed calibrated rebooted mounted synced flushed throttled registered")
	nouns = strings.Fields("session socket register coil frame lease carrier modem antenna certificate firmware partition queue broker topic " +
		"payload sensor relay inverter meter battery interface route bridge tunnel checksum watchdog voltage temperature humidity pressure flow")
	files = strings.Fields("config.yaml network device.json startup.sh main.log kernel.log modbus.conf routes wireless system firewall dhcp " +
		"calibration.bin readings.csv inventory.txt events.db update.log state.json credentials.old mqtt.conf upgrade.raucb notes.txt")
	dirs = strings.Fields("~ /etc /etc/config /var/log /tmp /opt/app /opt/app/data /srv/readings /usr/lib/sensors /mnt/flash /etc/init.d")
)

func (s *Session) pick(from []string) string { return from[s.r.IntN(len(from))] }

func (s *Session) address() string {
	return fmt.Sprintf("10.%d.%d.%d", s.r.IntN(60), s.r.IntN(256), 1+s.r.IntN(254))
}

func (s *Session) prompt() string {
	return "\x1b[1;32mroot@" + s.host + "\x1b[m:\x1b[34m" + s.dir + "\x1b[m# "
}

// logLine is one of a system log.
func (s *Session) logLine() string {
	s.now = s.now.Add(time.Duration(1+s.r.IntN(90)) * time.Second)
	s.pids += s.r.IntN(3)
	l := fmt.Sprintf("%s %s %s[%d]: ", s.now.Format(time.Stamp), s.host, s.pick(services), s.pids)
	switch s.r.IntN(4) {
	case 0:
		return l + fmt.Sprintf("%s %s: %s %d", s.pick(nouns), s.pick(verbs), s.address(), s.r.IntN(65536))
	case 1:
		return l + fmt.Sprintf("%s %d %s after %d ms, %s=%d.%02d", s.pick(nouns), s.r.IntN(400), s.pick(verbs), s.r.IntN(9000), s.pick(nouns), s.r.IntN(300), s.r.IntN(100))
	case 2:
		return l + fmt.Sprintf("%s %s, %s %s id=%08x", s.pick(nouns), s.pick(verbs), s.pick(nouns), s.pick(verbs), s.r.Uint32())
	}
	return l + fmt.Sprintf("<%s> %s %s from %s port %d", s.pick(services), s.pick(nouns), s.pick(verbs), s.address(), 1024+s.r.IntN(60000))
}

// command is one, and what it prints.
func (s *Session) command() (string, []string) {
	var out []string
	n := 3 + s.r.IntN(40)
	switch s.r.IntN(10) {
	case 0:
		for range n {
			out = append(out, fmt.Sprintf("-rw-r--r-- 1 root root %8d %s %s", s.r.IntN(9_000_000), s.now.Add(-time.Duration(s.r.IntN(9_000_000))*time.Second).Format("Jan _2 15:04"), s.pick(files)))
		}
		return "ls -l", out
	case 1, 2, 3:
		for range n * 2 {
			out = append(out, s.logLine())
		}
		return fmt.Sprintf("logread | grep -i %s | tail -n %d", s.pick(nouns), n*2), out
	case 4:
		for i := range n {
			out = append(out, fmt.Sprintf("64 bytes from %s: seq=%d ttl=%d time=%d.%03d ms", s.address(), i, 40+s.r.IntN(24), s.r.IntN(200), s.r.IntN(1000)))
		}
		return "ping -c " + fmt.Sprint(n) + " " + s.address(), out
	case 5:
		s.dir = s.pick(dirs)
		return "cd " + s.dir, nil
	case 6:
		for range n {
			out = append(out, fmt.Sprintf("%5d root %6d S    /usr/sbin/%s -c /etc/%s", s.r.IntN(30000), s.r.IntN(90000), s.pick(services), s.pick(files)))
		}
		return "ps w", out
	case 7:
		for range n / 2 {
			out = append(out, fmt.Sprintf("%6d %8d ACCEPT     tcp  --  *      *       %-20s 0.0.0.0/0  tcp dpt:%d", s.r.IntN(90000), s.r.IntN(9000000), s.address(), s.r.IntN(65536)))
		}
		return "iptables -nvL", out
	case 8:
		for range n {
			out = append(out, fmt.Sprintf("option %s '%s-%d'", s.pick(nouns), s.pick(verbs), s.r.IntN(1000)))
		}
		return "cat " + s.pick(files), out
	}
	return "/etc/init.d/" + s.pick(services) + " restart", []string{"Stopping " + s.pick(services) + ": OK", "Starting " + s.pick(services) + ": OK"}
}

// Lines are about n bytes of what the terminal shows, by line, for who needs no terminal.
func (s *Session) Lines(n int) []string {
	var all []string
	for n > 0 {
		c, out := s.command()
		all = append(append(all, "root@"+s.host+":"+s.dir+"# "+c), out...)
		for _, l := range all[len(all)-len(out)-1:] {
			n -= len(l) + 1
		}
	}
	return all
}

// Steps are one command as a terminal was sent it: keys that were typed, what it printed, the prompt.
func (s *Session) Steps() []Step {
	var all []Step
	c, out := s.command()
	for i := range len(c) {
		all = append(all, Step{time.Duration(40+s.r.IntN(300)) * time.Millisecond, []byte{c[i]}})
	}
	all = append(all, Step{time.Duration(200+s.r.IntN(600)) * time.Millisecond, []byte("\r\n")})
	for len(out) > 0 {
		n := min(len(out), 1+s.r.IntN(30))
		all = append(all, Step{time.Duration(1+s.r.IntN(50)) * time.Millisecond, []byte(strings.Join(out[:n], "\r\n") + "\r\n")})
		out = out[n:]
	}
	return append(all, Step{10 * time.Millisecond, []byte(s.prompt())}, Step{time.Duration(s.r.IntN(20_000)) * time.Millisecond, nil})
}
