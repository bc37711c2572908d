package observe

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"hawser/recorder"
)

// Packet types and flags of SFTP, version 3: draft-ietf-secsh-filexfer-02.
const (
	fxpInit          = 1
	fxpVersion       = 2
	fxpOpen          = 3
	fxpClose         = 4
	fxpRead          = 5
	fxpWrite         = 6
	fxpFstat         = 8
	fxpSetstat       = 9
	fxpFsetstat      = 10
	fxpOpendir       = 11
	fxpRemove        = 13
	fxpMkdir         = 14
	fxpRmdir         = 15
	fxpRename        = 18
	fxpSymlink       = 20
	fxpStatus        = 101
	fxpHandle        = 102
	fxpData          = 103
	fxpAttrs         = 105
	fxpExtended      = 200
	fxpExtendedReply = 201

	fxfTrunc = 0x10
	fxfExcl  = 0x20

	attrSize  = 1
	attrOwner = 2
	attrMode  = 4

	fxOK  = 0
	fxEOF = 1
)

// SFTP follows one session of the protocol. Not safe for concurrent use.
type SFTP struct {
	emit    func(recorder.FileOp)
	in, out packets
	pending map[uint32]*fxRequest
	handles map[string]*fxFile
}

// fxFile is an open handle.
type fxFile struct {
	path          string
	dir           bool
	read, written carried
	whole         bool // what was there before is gone: what is written is all there is
	status        uint32
}

// carried is content that passes in one direction.
type carried struct {
	bytes uint64
	next  uint64 // where what comes in order goes on
	hash  hash.Hash
	off   bool // it did not come in order
	eof   bool // the end was seen
}

// expect says that so much content follows for an offset.
func (c *carried) expect(offset uint64) {
	if offset != c.next {
		c.off, c.hash = true, nil
	}
}

func (c *carried) pass(b []byte) {
	c.bytes += uint64(len(b))
	if c.off {
		return
	}
	if c.hash == nil {
		c.hash = sha256.New()
	}
	c.hash.Write(b)
	c.next += uint64(len(b))
}

// sum is the hash of the whole content; nil: it did not pass whole and in order.
func (c *carried) sum() []byte {
	if c.off {
		return nil
	}
	if c.hash == nil {
		c.hash = sha256.New()
	}
	return c.hash.Sum(nil)
}

// fxRequest waits for its answer.
type fxRequest struct {
	op     recorder.FileOp // of what is told with the answer; without an Op nothing is
	file   *fxFile         // of a handle's
	opens  *fxFile         // what an OPEN makes
	handle string          // of a CLOSE
	read   bool
	write  bool
	stat   bool
	offset uint64
}

// NewSFTP gives each fact to emit.
func NewSFTP(emit func(recorder.FileOp)) *SFTP {
	return &SFTP{emit: emit, pending: map[uint32]*fxRequest{}, handles: map[string]*fxFile{}}
}

// In takes what the client sends, and Out what the server does. False: it is not SFTP.
func (s *SFTP) In(b []byte) bool { return s.in.take(b, s.request) }

// Out is In for the other direction.
func (s *SFTP) Out(b []byte) bool { return s.out.take(b, s.answer) }

// End tells of what is still open.
func (s *SFTP) End() {
	for name, f := range s.handles {
		delete(s.handles, name)
		s.closed(f, fxOK, false)
	}
}

// packets cuts a direction into packets, and passes on their data without keeping it.
type packets struct {
	head   []byte // length and what is kept of the packet
	left   uint32 // bytes of the packet that are still to come
	inside bool   // the packet's head was handled; the rest is data, or of no interest
	data   *carried
	dead   bool
}

// take feeds b. begin is called with a packet's head as far as it is kept, once; it returns how many bytes of it come before data, and where that goes.
func (p *packets) take(b []byte, begin func(head []byte, length uint32) (used int, to *carried)) bool {
	for len(b) > 0 && !p.dead {
		if p.inside {
			n := min(len(b), int(p.left))
			if p.data != nil {
				p.data.pass(b[:n])
			}
			b, p.left = b[n:], p.left-uint32(n)
			if p.left == 0 {
				p.reset()
			}
			continue
		}
		if len(p.head) < 4 {
			n := min(len(b), 4-len(p.head))
			p.head, b = append(p.head, b[:n]...), b[n:]
			if len(p.head) == 4 {
				if p.left = binary.BigEndian.Uint32(p.head); p.left == 0 || p.left > maxPacket {
					p.dead = true
				}
			}
			continue
		}
		want := headLength(p.head[4:], p.left)
		n := min(len(b), want-(len(p.head)-4))
		p.head, b = append(p.head, b[:n]...), b[n:]
		have := len(p.head) - 4
		if have < want || have < headLength(p.head[4:], p.left) {
			continue
		}
		used, to := begin(p.head[4:], p.left)
		if to != nil && used < have {
			to.pass(p.head[4+used:])
		}
		p.left -= uint32(have)
		p.inside, p.data = true, to
		if p.left == 0 {
			p.reset()
		}
	}
	return !p.dead
}

func (p *packets) reset() {
	p.head, p.inside, p.data, p.left = p.head[:0], false, nil, 0
	if cap(p.head) > 1<<10 {
		p.head = nil
	}
}

// headLength is how much of a packet must be there to handle it, as far as what is there of it tells: all of it, or what comes before its data.
func headLength(b []byte, length uint32) int {
	whole := int(min(length, maxHead))
	if len(b) == 0 {
		return 1
	}
	switch b[0] {
	case fxpData: // type, id, length of the data
		return min(whole, 9)
	case fxpWrite: // type, id, handle, offset, length of the data
		if len(b) < 9 {
			return min(whole, 9)
		}
		return int(min(uint64(whole), 9+uint64(binary.BigEndian.Uint32(b[5:]))+12))
	}
	return whole
}

// fields reads a packet; what is beyond its end is empty.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) u32() uint32 {
	if len(f.b) < 4 {
		f.b, f.bad = nil, true
		return 0
	}
	n := binary.BigEndian.Uint32(f.b)
	f.b = f.b[4:]
	return n
}

func (f *fields) u64() uint64 {
	high := f.u32()
	return uint64(high)<<32 | uint64(f.u32())
}

func (f *fields) bytes() []byte {
	n := f.u32()
	if uint64(n) > uint64(len(f.b)) {
		f.b, f.bad = nil, true
		return nil
	}
	s := f.b[:n]
	f.b = f.b[n:]
	return s
}

func (f *fields) text() string {
	b := f.bytes()
	return string(b[:min(len(b), maxPath)])
}

// attrs returns the size and the permissions, where they are given.
func (f *fields) attrs() (size uint64, sized bool, mode uint32) {
	flags := f.u32()
	if sized = flags&attrSize != 0; sized {
		size = f.u64()
	}
	if flags&attrOwner != 0 {
		f.u64()
	}
	if flags&attrMode != 0 {
		mode = f.u32() & 0o7777
	}
	return size, sized && !f.bad, mode
}

// request handles what the client asks.
func (s *SFTP) request(head []byte, length uint32) (used int, data *carried) {
	f := fields{b: head[1:]}
	if head[0] == fxpInit {
		return len(head), nil
	}
	id := f.u32()
	r := &fxRequest{}
	switch head[0] {
	case fxpOpen:
		path, flags := f.text(), f.u32()
		_, _, mode := f.attrs()
		r.op = recorder.FileOp{Op: "open", Path: path, Mode: mode}
		r.opens = &fxFile{path: path, whole: flags&(fxfTrunc|fxfExcl) != 0}
	case fxpOpendir:
		path := f.text()
		r.op = recorder.FileOp{Op: "list", Path: path}
		r.opens = &fxFile{path: path, dir: true}
	case fxpClose:
		r.handle = string(f.bytes())
		if r.file = s.handles[r.handle]; r.file == nil {
			return len(head), nil
		}
	case fxpRead:
		r.file, r.read = s.handles[string(f.bytes())], true
		r.offset = f.u64()
		if r.file == nil {
			return len(head), nil
		}
	case fxpWrite:
		r.file, r.write = s.handles[string(f.bytes())], true
		r.offset = f.u64()
		f.u32()
		if r.file == nil || f.bad {
			return len(head), nil
		}
		data = &r.file.written
		data.expect(r.offset)
		used = len(head) - len(f.b)
	case fxpFstat:
		if r.file, r.stat = s.handles[string(f.bytes())], true; r.file == nil {
			return len(head), nil
		}
	case fxpSetstat, fxpFsetstat:
		path := ""
		if head[0] == fxpSetstat {
			path = f.text()
		} else if r.file = s.handles[string(f.bytes())]; r.file != nil {
			path = r.file.path
		}
		size, sized, mode := f.attrs()
		r.op = recorder.FileOp{Op: "setstat", Path: path, Mode: mode}
		if r.file != nil && sized && size != r.file.written.bytes {
			r.file.whole = false
		}
	case fxpRemove:
		r.op = recorder.FileOp{Op: "remove", Path: f.text()}
	case fxpRmdir:
		r.op = recorder.FileOp{Op: "rmdir", Path: f.text()}
	case fxpMkdir:
		r.op = recorder.FileOp{Op: "mkdir", Path: f.text()}
		_, _, r.op.Mode = f.attrs()
	case fxpRename:
		r.op = recorder.FileOp{Op: "rename", Path: f.text(), Path2: f.text()}
	case fxpSymlink: // OpenSSH, and so everybody, has the target first
		r.op = recorder.FileOp{Op: "symlink", Path: f.text(), Path2: f.text()}
	case fxpExtended:
		if !s.extended(&f, r) {
			return len(head), nil
		}
	default: // asks without changing anything
		return len(head), nil
	}
	r.op.Protocol = "sftp"
	s.await(id, r)
	return max(used, 0), data
}

// extended handles OpenSSH's extensions; false: it changes nothing.
func (s *SFTP) extended(f *fields, r *fxRequest) bool {
	switch name := f.text(); name {
	case "posix-rename@openssh.com":
		r.op = recorder.FileOp{Op: "rename", Path: f.text(), Path2: f.text()}
	case "hardlink@openssh.com":
		r.op = recorder.FileOp{Op: "link", Path: f.text(), Path2: f.text()}
	case "lsetstat@openssh.com":
		r.op = recorder.FileOp{Op: "setstat", Path: f.text()}
		_, _, r.op.Mode = f.attrs()
	case "copy-data":
		from := s.handles[string(f.bytes())]
		f.u64()
		f.u64()
		to := s.handles[string(f.bytes())]
		if from == nil || to == nil {
			return false
		}
		to.written.off, to.written.hash = true, nil // what it holds did not pass
		r.op = recorder.FileOp{Op: "copy", Path: from.path, Path2: to.path}
	case "statvfs@openssh.com", "fstatvfs@openssh.com", "fsync@openssh.com", "limits@openssh.com", "expand-path@openssh.com", "home-directory",
		"users-groups-by-id@openssh.com":
		return false
	default:
		r.op = recorder.FileOp{Op: "extended", Path: name}
	}
	return true
}

// await remembers a request until its answer. One too many makes room by a request that then has no answer: its file's content is not known any more.
func (s *SFTP) await(id uint32, r *fxRequest) {
	if old := s.pending[id]; old != nil {
		s.forget(id, old)
	} else if len(s.pending) >= maxPending {
		for id, old := range s.pending {
			s.forget(id, old)
			break
		}
	}
	s.pending[id] = r
}

func (s *SFTP) forget(id uint32, r *fxRequest) {
	delete(s.pending, id)
	if r.file != nil {
		r.file.read.off, r.file.written.off = true, true
	}
	if r.op.Op != "" {
		r.op.Status = 4 // it is not known that it was done
		s.emit(r.op)
	}
}

// answer handles what the server says.
func (s *SFTP) answer(head []byte, length uint32) (used int, data *carried) {
	f := fields{b: head[1:]}
	if head[0] == fxpVersion {
		return len(head), nil
	}
	id := f.u32()
	r := s.pending[id]
	if r == nil || f.bad {
		return len(head), nil
	}
	delete(s.pending, id)
	switch head[0] {
	case fxpStatus:
		s.status(r, f.u32())
	case fxpHandle:
		name := f.bytes()
		if r.opens == nil || f.bad {
			break
		}
		s.emit(r.op)
		if len(s.handles) < maxFiles && len(name) <= 256 {
			s.handles[string(name)] = r.opens
		}
	case fxpData:
		f.u32()
		if !r.read {
			break
		}
		data = &r.file.read
		data.expect(r.offset)
		return len(head) - len(f.b), data
	case fxpAttrs:
		if size, sized, _ := f.attrs(); r.stat && sized && size == r.file.read.next {
			r.file.read.eof = true
		}
	case fxpExtendedReply:
		if r.op.Op != "" {
			s.emit(r.op)
		}
	}
	return len(head), nil
}

func (s *SFTP) status(r *fxRequest, status uint32) {
	switch {
	case r.read:
		if status == fxEOF && r.offset <= r.file.read.next {
			r.file.read.eof = true
		} else if status != fxEOF {
			r.file.status = status
		}
	case r.write:
		if status != fxOK {
			r.file.status = status
			r.file.written.off, r.file.written.hash = true, nil
		}
	case r.handle != "":
		if s.handles[r.handle] == r.file {
			delete(s.handles, r.handle)
		}
		s.closed(r.file, status, true)
	case r.op.Op != "":
		r.op.Status = status
		s.emit(r.op)
	}
}

// closed tells of a handle that is closed.
func (s *SFTP) closed(f *fxFile, status uint32, orderly bool) {
	if f.dir {
		return
	}
	if f.status != fxOK {
		status = f.status
	}
	op := recorder.FileOp{Op: "close", Path: f.path, Read: f.read.bytes, Written: f.written.bytes, Status: status, Protocol: "sftp"}
	switch {
	case !orderly:
		op.Status = max(status, 4) // cut off
	case f.written.bytes > 0 && f.whole && f.read.bytes == 0:
		op.Hash = f.written.sum()
	case f.read.bytes > 0 && f.read.eof && f.written.bytes == 0:
		op.Hash = f.read.sum()
	}
	s.emit(op)
}
