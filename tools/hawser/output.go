package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"hawser/tunnel/wire"
)

// formats of -o.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
	formatName  = "name"
)

func checkFormat(f string) error {
	switch f {
	case formatTable, formatWide, formatJSON, formatYAML, formatName:
		return nil
	}
	return usageError{fmt.Errorf("unknown format %q: table, wide, json, yaml or name", f)}
}

// table writes rows in columns. Every cell is quoted where it holds what could
// drive a terminal: much of it comes from devices.
func table(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = dash(wire.Quote(c, maxCell))
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// maxCell bounds a cell of a table, in bytes.
const maxCell = 200

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// data writes v as JSON or YAML.
func data(w io.Writer, format string, v any) error {
	if format == formatJSON {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return err
		}
		_, err := w.Write(unshaped(b.Bytes()))
		return err
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return err
	}
	return e.Close()
}

// unshaped writes what in JSON's strings has no shape of its own as \uXXXX: encoding/json lets DEL, the C1 controls and marks that turn
// text around through, and a device's words would drive the terminal they are printed on.
func unshaped(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		default:
			for _, u := range utf16.AppendRune(nil, r) {
				out = fmt.Appendf(out, `\u%04x`, u)
			}
		}
	}
	return out
}

// when prints a Unix time for people; 0 is not known.
func when(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(unix, 0).Local().Format("2006-01-02 15:04:05")
}

// ago prints how long ago a Unix time is, in one unit.
func ago(now time.Time, unix int64) string {
	if unix == 0 {
		return "never"
	}
	return span(now.Sub(time.Unix(unix, 0))) + " ago"
}

// span prints a duration for people, in one unit.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}
