package observe

import "strings"

// Transfer is what a command line says that a session carries.
type Transfer struct {
	Program string // scp or rsync; empty: no transfer that this package knows
	Target  string // what it names on the device
	Sink    bool   // the device takes what comes
}

// where programs of the system are: one of the same name elsewhere is somebody's own.
var systemDirs = [...]string{"/bin/", "/usr/bin/", "/usr/local/bin/", "/opt/bin/", "/sbin/", "/usr/sbin/"}

// ParseTransfer recognizes the command that a client's scp -O or rsync asks for: that program and nothing else. Whatever the shell could make more of, a
// second command or a substitution, is no transfer.
func ParseTransfer(command string) Transfer {
	words, ok := split(command)
	if !ok || len(words) < 2 {
		return Transfer{}
	}
	program := words[0]
	for _, dir := range systemDirs {
		if rest, cut := strings.CutPrefix(program, dir); cut {
			program = rest
			break
		}
	}
	t := Transfer{Program: program}
	switch program {
	case "scp":
		from, to := false, false
		i := 1
		for ; i < len(words) && len(words[i]) > 1 && words[i][0] == '-'; i++ {
			if words[i] == "--" {
				i++
				break
			}
			for _, c := range words[i][1:] {
				switch c {
				case 'f':
					from = true
				case 't':
					to = true
				case 'r', 'p', 'd', 'v', 'q':
				default:
					return Transfer{}
				}
			}
		}
		if from == to || i == len(words) {
			return Transfer{}
		}
		t.Sink, t.Target = to, strings.Join(words[i:], " ")
		return t
	case "rsync":
		if words[1] != "--server" {
			return Transfer{}
		}
		t.Sink = len(words) < 3 || words[2] != "--sender"
		t.Target = words[len(words)-1]
		return t
	}
	return Transfer{}
}

// split cuts a command into words, as a shell does as long as nothing but names, quotes and patterns is in it.
func split(command string) (words []string, ok bool) {
	if len(command) > maxHead {
		return nil, false
	}
	var word []byte
	in := false
	for i := 0; i < len(command); i++ {
		switch c := command[i]; c {
		case ' ', '\t':
			if in {
				words, word, in = append(words, string(word)), word[:0], false
			}
			continue
		case ';', '|', '&', '<', '>', '(', ')', '`', '$', '\n', '\r', 0:
			return nil, false
		case '\\':
			if i++; i == len(command) || command[i] == '\n' {
				return nil, false
			}
			word, in = append(word, command[i]), true
		case '\'', '"':
			end := strings.IndexByte(command[i+1:], c)
			if end < 0 {
				return nil, false
			}
			quoted := command[i+1 : i+1+end]
			if c == '"' && strings.ContainsAny(quoted, "$`\\") {
				return nil, false
			}
			word, in = append(word, quoted...), true
			i += end + 1
		case '#', '!', '{', '}', '=':
			if !in && c != '{' && c != '}' {
				return nil, false
			}
			word, in = append(word, c), true
		default:
			word, in = append(word, c), true
		}
	}
	if in {
		words = append(words, string(word))
	}
	return words, len(words) > 0
}
