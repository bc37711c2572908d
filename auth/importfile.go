package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"

	"hawser/tunnel/wire"
)

// importEntry is one device of a file of keys.
type importEntry struct {
	line        int
	name        string
	fingerprint string // SHA256:...
	hash        string // of the key, hex: the record's
	key         []byte // Ed25519; nil where the file gives the fingerprint alone
	labels      map[string]string
}

// problems are what is wrong with a file, by line.
type problems struct {
	list []string
	more int
}

func (p *problems) add(line int, format string, args ...any) {
	if len(p.list) == maxProblems {
		p.more++
		return
	}
	p.list = append(p.list, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
}

func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	text := strings.Join(p.list, "\n")
	if p.more > 0 {
		text += fmt.Sprintf("\nand %d more", p.more)
	}
	return invalid("nothing was imported:\n%s", text)
}

// parseImport reads a file of keys: CSV (name, key, labels), YAML (a list) or JSON (an object a line), each with name, key (a fingerprint or
// a public key as ssh-keygen writes it) and labels. All that is wrong with it is told at once.
func parseImport(data []byte, format string) ([]importEntry, error) {
	if len(data) > maxImport {
		return nil, invalid("the file has more than %d MiB", maxImport>>20)
	}
	if !utf8.Valid(data) {
		return nil, invalid("the file is not UTF-8 text")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var p problems
	var entries []importEntry
	var err error
	switch cmpFormat(format, data) {
	case "csv":
		entries, err = importCSV(data, &p)
	case "yaml":
		entries, err = importYAML(data, &p)
	case "json":
		entries, err = importJSON(data, &p)
	default:
		return nil, invalid("format %q; give csv, yaml or json", wire.Quote(format, 32))
	}
	if err != nil {
		return nil, err
	}
	names, keys := make(map[string]int), make(map[string]int)
	for _, e := range entries {
		if first := names[e.name]; first != 0 {
			p.add(e.line, "name %q is that of line %d", e.name, first)
		}
		if first := keys[e.hash]; first != 0 {
			p.add(e.line, "the key is that of line %d", first)
		}
		names[e.name], keys[e.hash] = e.line, e.line
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, invalid("the file names no device")
	}
	return entries, nil
}

// cmpFormat is format, or what the content looks like.
func cmpFormat(format string, data []byte) string {
	if format != "" {
		return strings.ToLower(format)
	}
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || line[0] == '#':
			continue
		case line[0] == '{':
			return "json"
		case line[0] == '-' || line[0] == '[':
			return "yaml"
		}
		break
	}
	return "csv"
}

func importCSV(data []byte, p *problems) ([]importEntry, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.Comment, r.FieldsPerRecord, r.TrimLeadingSpace = '#', -1, true
	columns := []string{"name", "key", "labels"}
	var out []importEntry
	for first := true; ; first = false {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if bad, ok := errors.AsType[*csv.ParseError](err); ok {
			p.add(bad.Line, "%v", bad.Err)
			return nil, p.err()
		} else if err != nil {
			return nil, err
		}
		line, _ := r.FieldPos(0)
		if head := header(rec); first && head != nil {
			columns = head
			continue
		}
		if len(rec) < 2 || len(rec) > len(columns) {
			p.add(line, "%d columns where %s are expected", len(rec), strings.Join(columns, ","))
			continue
		}
		f := importFields{labels: make(map[string]string)}
		for i, text := range rec {
			text = strings.TrimSpace(text)
			switch c := columns[i]; c {
			case "name":
				f.name = text
			case "key":
				f.key = text
			case "labels":
				for _, l := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' || r == ' ' }) {
					k, v, ok := strings.Cut(l, "=")
					if _, twice := f.labels[k]; !ok || k == "" || twice {
						p.add(line, "labels %q are not key=value;key=value", wire.Quote(text, 64))
						break
					}
					f.labels[k] = v
				}
			default:
				if text != "" {
					f.labels[strings.TrimPrefix(c, "label:")] = text
				}
			}
		}
		if out, err = f.appendTo(out, line, p); err != nil {
			return nil, err
		}
	}
}

// header reads a first line that names columns; nil if it does not.
func header(rec []string) []string {
	var columns []string
	seen := make(map[string]bool)
	for _, c := range rec {
		c = strings.TrimSpace(c)
		if low := strings.ToLower(c); low == "fingerprint" || low == "public_key" {
			c = "key"
		} else if !strings.HasPrefix(c, "label:") {
			c = low
		}
		if seen[c] || c != "name" && c != "key" && c != "labels" && (!strings.HasPrefix(c, "label:") || len(c) == len("label:")) {
			return nil
		}
		seen[c] = true
		columns = append(columns, c)
	}
	if !seen["name"] || !seen["key"] {
		return nil
	}
	return columns
}

func importYAML(data []byte, p *problems) ([]importEntry, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var out []importEntry
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, invalid("nothing was imported: %w", err)
		}
		if len(doc.Content) == 0 {
			continue
		}
		items := []*yaml.Node{doc.Content[0]}
		if items[0].Kind == yaml.SequenceNode {
			items = items[0].Content
		}
		for _, n := range items {
			var f importFields
			if n.Kind != yaml.MappingNode {
				p.add(n.Line, "not a mapping of name, key and labels")
				continue
			}
			bad := false
			for i := 0; i+1 < len(n.Content); i += 2 {
				var err error
				switch k, v := n.Content[i], n.Content[i+1]; k.Value {
				case "name":
					err = v.Decode(&f.name)
				case "key", "fingerprint", "public_key":
					err = v.Decode(&f.key)
				case "labels":
					err = v.Decode(&f.labels)
				default:
					err = errors.New("there are name, key and labels")
				}
				if err != nil {
					p.add(n.Content[i].Line, "%q: %s", wire.Quote(n.Content[i].Value, 64), wire.Quote(err.Error(), 200))
					bad = true
				}
			}
			if bad {
				continue
			}
			var err error
			if out, err = f.appendTo(out, n.Line, p); err != nil {
				return nil, err
			}
		}
	}
}

func importJSON(data []byte, p *problems) ([]importEntry, error) {
	var out []importEntry
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var v struct {
			Name        string            `json:"name"`
			Key         string            `json:"key"`
			Fingerprint string            `json:"fingerprint"`
			Labels      map[string]string `json:"labels"`
		}
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		err := dec.Decode(&v)
		if err == nil && dec.More() {
			err = errors.New("one object a line")
		}
		if err != nil {
			p.add(n, "%s", wire.Quote(err.Error(), 200))
			continue
		}
		if v.Key == "" {
			v.Key = v.Fingerprint
		}
		if out, err = (importFields{v.Name, v.Key, v.Labels}).appendTo(out, n, p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// importFields is a device as the file has it.
type importFields struct {
	name, key string
	labels    map[string]string
}

// appendTo adds the device, or what is wrong with it; the error is for a file that is too long.
func (f importFields) appendTo(out []importEntry, line int, p *problems) ([]importEntry, error) {
	if len(out) == maxImported {
		return nil, invalid("the file names more than %d devices; split it", maxImported)
	}
	e := importEntry{line: line, name: f.name, labels: f.labels}
	if err := wire.CheckDeviceName(f.name); err != nil {
		p.add(line, "%v", err)
		return out, nil
	}
	if err := checkLabels(f.labels); err != nil {
		p.add(line, "%v", err)
		return out, nil
	}
	for k := range f.labels {
		if ownLabel(k) {
			p.add(line, "label %q: every device has it by itself", k)
			return out, nil
		}
	}
	var err error
	if e.hash, e.key, err = readKeyOrPrint(f.key); err != nil {
		p.add(line, "key of %s: %v", f.name, err)
		return out, nil
	}
	sum, _ := hex.DecodeString(e.hash)
	e.fingerprint = printOf(sum)
	return append(out, e), nil
}

// readKeyOrPrint reads "SHA256:..." or "ssh-ed25519 AAAA...".
func readKeyOrPrint(text string) (hash string, key []byte, err error) {
	if b64, ok := strings.CutPrefix(text, "SHA256:"); ok {
		sum, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(b64, "="))
		if err != nil || len(sum) != sha256.Size {
			return "", nil, fmt.Errorf("%q is not a whole fingerprint; `hawser-edge key` prints it", wire.Quote(text, 80))
		}
		return hex.EncodeToString(sum), nil, nil
	}
	pub, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return "", nil, fmt.Errorf("%q is neither SHA256:... nor ssh-ed25519 ...; `hawser-edge key` prints the first", wire.Quote(text, 80))
	}
	c, ok := pub.(ssh.CryptoPublicKey)
	if ok {
		key, ok = c.CryptoPublicKey().(ed25519.PublicKey)
	}
	if !ok {
		return "", nil, fmt.Errorf("it is a key of type %s; a device's is ssh-ed25519", pub.Type())
	}
	return hashOf(key), key, nil
}

// hashOf is the SHA-256 of a device's key in SSH wire form, hex; its fingerprint is the same sum.
func hashOf(key ed25519.PublicKey) string {
	pub, err := ssh.NewPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(pub.Marshal())
	return hex.EncodeToString(sum[:])
}

func printOf(sum []byte) string { return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum) }

// devicePrint is the fingerprint of a device's key.
func devicePrint(key ed25519.PublicKey) string {
	sum, _ := hex.DecodeString(hashOf(key))
	return printOf(sum)
}

func checkLabels(m map[string]string) error {
	if len(m) > maxLabels {
		return fmt.Errorf("more than %d labels", maxLabels)
	}
	for k, v := range m {
		if k == "" || len(k) > maxLabel || len(v) > maxLabel {
			return fmt.Errorf("label %q: key and value have 1 to %d bytes", wire.Quote(k, 64), maxLabel)
		}
	}
	return nil
}
