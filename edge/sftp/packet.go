package sftp

import (
	"encoding/binary"
	"errors"
)

// Types of packets.
const (
	typeInit = 1 + iota
	typeVersion
	typeOpen
	typeClose
	typeRead
	typeWrite
	typeLstat
	typeFstat
	typeSetstat
	typeFsetstat
	typeOpendir
	typeReaddir
	typeRemove
	typeMkdir
	typeRmdir
	typeRealpath
	typeStat
	typeRename
	typeReadlink
	typeSymlink
)

const (
	typeStatus = 101 + iota
	typeHandle
	typeData
	typeName
	typeAttrs
)

const (
	typeExtended      = 200
	typeExtendedReply = 201
)

// Codes of a STATUS.
const (
	statusOK = iota
	statusEOF
	statusNoSuchFile
	statusPermissionDenied
	statusFailure
	statusBadMessage
	_
	_
	statusUnsupported
)

var statusText = [...]string{"Success", "End of file", "No such file", "Permission denied", "Failure", "Bad message", "No connection", "Connection lost", "Operation unsupported"}

// Bits of attributes.
const (
	attrSize = 1 << iota
	attrOwner
	attrMode
	attrTimes
	attrExtended = 1 << 31
)

// Bits of OPEN.
const (
	openRead = 1 << iota
	openWrite
	openAppend
	openCreate
	openTruncate
	openExclusive
)

// attrs are a file's, those that flags names.
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32
}

// request is a packet of the client's. Which fields are set follows from its type, and of an EXTENDED from its name.
type request struct {
	typ            byte
	id             uint32
	name           string // of an extension
	path, other    string // other: the second of two, in the order they came
	handle, target string // handles; target of copy-data
	flags          uint32
	attrs          attrs
	offset, length uint64
	to             uint64 // offset in target
	data           []byte // shares memory with the packet
	uids, gids     []byte // packed numbers; likewise
}

var errMalformed = errors.New("malformed sftp packet")

// decode reads a packet without its length.
func decode(b []byte) (r request, err error) {
	d := decoder{b: b}
	r.typ = byte(d.number(1))
	if r.typ == typeInit {
		r.flags = d.u32() // the version; what follows are extensions, none of which a server needs
		return r, d.err
	}
	r.id = d.u32()
	switch r.typ {
	case typeOpen:
		r.path, r.flags, r.attrs = d.str(), d.u32(), d.attrs()
	case typeClose, typeFstat, typeReaddir:
		r.handle = d.str()
	case typeRead:
		r.handle, r.offset, r.length = d.str(), d.number(8), uint64(d.u32())
	case typeWrite:
		r.handle, r.offset, r.data = d.str(), d.number(8), d.bytes()
	case typeLstat, typeStat, typeOpendir, typeRemove, typeRmdir, typeRealpath, typeReadlink:
		r.path = d.str()
	case typeSetstat, typeMkdir:
		r.path, r.attrs = d.str(), d.attrs()
	case typeFsetstat:
		r.handle, r.attrs = d.str(), d.attrs()
	case typeRename, typeSymlink:
		r.path, r.other = d.str(), d.str()
	case typeExtended:
		switch r.name = d.str(); r.name {
		case "posix-rename@openssh.com", "hardlink@openssh.com":
			r.path, r.other = d.str(), d.str()
		case "statvfs@openssh.com", "expand-path@openssh.com", "home-directory":
			r.path = d.str()
		case "fstatvfs@openssh.com", "fsync@openssh.com":
			r.handle = d.str()
		case "lsetstat@openssh.com":
			r.path, r.attrs = d.str(), d.attrs()
		case "copy-data":
			r.handle, r.offset, r.length, r.target, r.to = d.str(), d.number(8), d.number(8), d.str(), d.number(8)
		case "users-groups-by-id@openssh.com":
			r.uids, r.gids = d.bytes(), d.bytes()
		}
	}
	return r, d.err
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.b)) {
		d.err = errMalformed
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// number reads n bytes, big-endian.
func (d *decoder) number(n uint64) (v uint64) {
	for _, b := range d.take(n) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (d *decoder) u32() uint32   { return uint32(d.number(4)) }
func (d *decoder) bytes() []byte { return d.take(d.number(4)) }
func (d *decoder) str() string   { return string(d.bytes()) }

func (d *decoder) attrs() (a attrs) {
	a.flags = d.u32()
	if a.flags&attrSize != 0 {
		a.size = d.number(8)
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = d.u32(), d.u32()
	}
	if a.flags&attrMode != 0 {
		a.mode = d.u32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = d.u32(), d.u32()
	}
	if a.flags&attrExtended != 0 {
		for range d.u32() {
			if d.bytes(); d.err != nil {
				break
			}
			d.bytes()
		}
	}
	return a
}

func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func u64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func str(b []byte, s string) []byte { return append(u32(b, uint32(len(s))), s...) }
func (a attrs) append(b []byte) []byte {
	b = u32(b, a.flags)
	if a.flags == 0 {
		return b
	}
	return u32(u32(u32(u32(u32(u64(b, a.size), a.uid), a.gid), a.mode), a.atime), a.mtime)
}
