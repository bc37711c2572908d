package pty

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// ErrModes: the encoded terminal modes of a pty-req break off in the middle of one.
var ErrModes = errors.New("malformed terminal modes")

// Mode is one terminal mode of a pty-req, RFC 4254, section 8.
type Mode struct {
	Opcode byte
	Value  uint32
}

const (
	ttyOpEnd  = 0
	lastUint  = 159 // opcodes 1 to 159 have a uint32 argument; what follows a higher one is undefined
	opISpeed  = 128
	opOSpeed  = 129
	maxModes  = 256 // OpenSSH sends about 60; more than there are opcodes is no list of modes
	modeBytes = 5
)

// ParseModes decodes the modes string of a pty-req. It stops at TTY_OP_END, at the end of the string, or at an opcode above 159.
func ParseModes(s string) ([]Mode, error) {
	var modes []Mode
	for len(s) > 0 && s[0] != ttyOpEnd && s[0] <= lastUint {
		if len(s) < modeBytes || len(modes) == maxModes {
			return nil, ErrModes
		}
		modes = append(modes, Mode{s[0], binary.BigEndian.Uint32([]byte(s[1:modeBytes]))})
		s = s[modeBytes:]
	}
	return modes, nil
}

// Apply sets the terminal to the modes. Opcodes this kernel has no counterpart for are passed over.
func (p *PTY) Apply(modes []Mode) error {
	return p.control(func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		for _, m := range modes {
			set(t, m)
		}
		return unix.IoctlSetTermios(fd, unix.TCSETS, t)
	})
}

func set(t *unix.Termios, m Mode) {
	if i, ok := characters[m.Opcode]; ok {
		if m.Value == 255 { // "not set", RFC 4254, section 8
			m.Value = 0
		}
		t.Cc[i] = byte(m.Value)
		return
	}
	if f, ok := flags[m.Opcode]; ok {
		w := f.word(t)
		if m.Value != 0 {
			*w |= f.bit
		} else {
			*w &^= f.bit
		}
		return
	}
	switch m.Opcode {
	case 90, 91: // CS7, CS8: a size, not a bit; only being chosen means something
		if m.Value != 0 {
			t.Cflag = t.Cflag&^unix.CSIZE | map[byte]uint32{90: unix.CS7, 91: unix.CS8}[m.Opcode]
		}
	case opISpeed, opOSpeed:
		// The rate of a pseudo-terminal is only something for stty to show. Both directions share one in the kernel.
		if b, ok := speeds[m.Value]; ok && m.Opcode == opOSpeed {
			t.Cflag = t.Cflag&^unix.CBAUD | b
		}
	}
}

// characters are the opcodes of special characters and their places in c_cc.
var characters = map[byte]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART, 9: unix.VSTOP,
	10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 16: unix.VSWTC, 18: unix.VDISCARD,
}

type flag struct {
	word func(*unix.Termios) *uint32
	bit  uint32
}

func iflag(t *unix.Termios) *uint32 { return &t.Iflag }
func lflag(t *unix.Termios) *uint32 { return &t.Lflag }
func oflag(t *unix.Termios) *uint32 { return &t.Oflag }
func cflag(t *unix.Termios) *uint32 { return &t.Cflag }

// flags are the opcodes that are one bit. 42, IUTF8, is RFC 8160.
var flags = map[byte]flag{
	30: {iflag, unix.IGNPAR}, 31: {iflag, unix.PARMRK}, 32: {iflag, unix.INPCK}, 33: {iflag, unix.ISTRIP}, 34: {iflag, unix.INLCR},
	35: {iflag, unix.IGNCR}, 36: {iflag, unix.ICRNL}, 37: {iflag, unix.IUCLC}, 38: {iflag, unix.IXON}, 39: {iflag, unix.IXANY},
	40: {iflag, unix.IXOFF}, 41: {iflag, unix.IMAXBEL}, 42: {iflag, unix.IUTF8},
	50: {lflag, unix.ISIG}, 51: {lflag, unix.ICANON}, 52: {lflag, unix.XCASE}, 53: {lflag, unix.ECHO}, 54: {lflag, unix.ECHOE},
	55: {lflag, unix.ECHOK}, 56: {lflag, unix.ECHONL}, 57: {lflag, unix.NOFLSH}, 58: {lflag, unix.TOSTOP}, 59: {lflag, unix.IEXTEN},
	60: {lflag, unix.ECHOCTL}, 61: {lflag, unix.ECHOKE}, 62: {lflag, unix.PENDIN},
	70: {oflag, unix.OPOST}, 71: {oflag, unix.OLCUC}, 72: {oflag, unix.ONLCR}, 73: {oflag, unix.OCRNL}, 74: {oflag, unix.ONOCR}, 75: {oflag, unix.ONLRET},
	92: {cflag, unix.PARENB}, 93: {cflag, unix.PARODD},
}

var speeds = map[uint32]uint32{
	300: unix.B300, 600: unix.B600, 1200: unix.B1200, 1800: unix.B1800, 2400: unix.B2400, 4800: unix.B4800, 9600: unix.B9600,
	19200: unix.B19200, 38400: unix.B38400, 57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400,
}
