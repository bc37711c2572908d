package sftp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is one session of the protocol. One goroutine, but for cut.
type server struct {
	ctx  context.Context
	dir  string // what relative paths are relative to
	next uint64

	mu      sync.Mutex // held to change handles, which the end of ctx reads
	handles map[string]*handle

	out   []byte // the answer being made; its first four bytes are its length
	names names
}

type handle struct {
	*os.File
	dir      bool
	path     string
	appends  bool
	dotsSaid bool // of a directory: "." and ".." were told
}

// Serve answers requests, one after another as OpenSSH does, until the client ends the stream: then it returns nil. Relative paths begin at dir. It does not
// close rw. When ctx ends, what is being done ends in the middle; the caller ends rw.
func Serve(ctx context.Context, rw io.ReadWriter, dir string) error {
	s := &server{ctx: ctx, dir: dir, handles: map[string]*handle{}}
	stop := context.AfterFunc(ctx, s.cut)
	defer func() {
		stop()
		for _, h := range s.handles {
			h.Close()
		}
	}()
	in := bufio.NewReaderSize(rw, 16<<10)
	var packet []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 || n > maxPacket {
			return errMalformed
		}
		if int(n) > cap(packet) {
			packet = make([]byte, n, max(n, 4<<10))
		}
		packet = packet[:n]
		if _, err := io.ReadFull(in, packet); err != nil {
			return err
		}
		r, err := decode(packet)
		if err != nil {
			return err
		}
		s.out = append(s.out[:0], 0, 0, 0, 0)
		if ctx.Err() == nil {
			s.answer(r)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		binary.BigEndian.PutUint32(s.out, uint32(len(s.out)-4))
		if _, err := rw.Write(s.out); err != nil {
			return err
		}
	}
}

// cut ends what waits for a file: a pipe that nobody reads.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.handles {
		_ = h.SetDeadline(time.Unix(1, 0))
	}
}

// extensions are told with the version, in OpenSSH's order.
var extensions = [...]string{
	"posix-rename@openssh.com", "1", "statvfs@openssh.com", "2", "fstatvfs@openssh.com", "2", "hardlink@openssh.com", "1", "fsync@openssh.com", "1",
	"lsetstat@openssh.com", "1", "limits@openssh.com", "1", "expand-path@openssh.com", "1", "copy-data", "1", "home-directory", "1",
	"users-groups-by-id@openssh.com", "1",
}

// errStatus is a status that is no error of the system's.
type errStatus uint32

func (e errStatus) Error() string { return statusText[e] }

// code is an error as OpenSSH tells it.
func code(err error) uint32 {
	if err == nil {
		return statusOK
	}
	if s, ok := errors.AsType[errStatus](err); ok {
		return uint32(s)
	}
	errno, _ := errors.AsType[syscall.Errno](err)
	switch {
	case errno == unix.ENOENT, errno == unix.ENOTDIR, errno == unix.EBADF, errno == unix.ELOOP, errors.Is(err, fs.ErrNotExist):
		return statusNoSuchFile
	case errno == unix.EPERM, errno == unix.EACCES, errno == unix.EFAULT:
		return statusPermissionDenied
	case errno == unix.ENAMETOOLONG, errno == unix.EINVAL:
		return statusBadMessage
	case errno == unix.ENOSYS:
		return statusUnsupported
	}
	return statusFailure
}

func (s *server) status(id uint32, err error) {
	n := code(err)
	s.out = str(str(u32(u32(append(s.out[:4], typeStatus), id), n), statusText[n]), "")
}

// reply begins an answer.
func (s *server) reply(typ byte, id uint32) { s.out = u32(append(s.out[:4], typ), id) }

// one answers with a single name.
func (s *server) one(id uint32, name string) {
	s.reply(typeName, id)
	s.out = attrs{}.append(str(str(u32(s.out, 1), name), name))
}

// path makes a path of the client's one of the system's. It is not cleaned: ".." after a link is the link's target's.
func (s *server) path(p string) string {
	if p == "" || filepath.IsAbs(p) { // of "" the system says that there is no such file
		return p
	}
	return s.dir + "/" + p
}

// answer makes the answer to a request.
func (s *server) answer(r request) {
	var err error
	switch r.typ {
	case typeInit:
		s.out = u32(append(s.out[:4], typeVersion), version)
		for _, e := range extensions {
			s.out = str(s.out, e)
		}
		return
	case typeStat, typeLstat, typeFstat:
		err = s.stat(r)
	case typeRead:
		err = s.read(r)
	case typeWrite:
		err = s.write(r)
	case typeOpen, typeOpendir:
		err = s.open(r)
	case typeReaddir:
		err = s.readdir(r)
	case typeRealpath, typeReadlink:
		err = s.resolve(r)
	case typeExtended:
		err = s.extended(r)
	default:
		s.status(r.id, s.do(r))
		return
	}
	if err != nil {
		s.status(r.id, err)
	}
}

// do is what is answered by a status alone.
func (s *server) do(r request) error {
	path := s.path(r.path)
	switch r.typ {
	case typeClose:
		h := s.handles[r.handle]
		if h == nil {
			return unix.EBADF
		}
		s.mu.Lock()
		delete(s.handles, r.handle)
		s.mu.Unlock()
		return h.Close()
	case typeSetstat:
		return setstat(r.attrs, target{path: path})
	case typeFsetstat:
		h := s.handles[r.handle]
		if h == nil {
			return errStatus(statusFailure)
		}
		return setstat(r.attrs, target{path: h.path, file: h.File})
	case typeRemove:
		return unix.Unlink(path)
	case typeMkdir:
		mode := uint32(0o777)
		if r.attrs.flags&attrMode != 0 {
			mode = r.attrs.mode & 0o7777
		}
		return unix.Mkdir(path, mode)
	case typeRmdir:
		return unix.Rmdir(path)
	case typeRename:
		return rename(path, s.path(r.other))
	case typeSymlink:
		return unix.Symlink(r.path, s.path(r.other)) // OpenSSH has the draft's paths the other way round, and so have all clients
	}
	return errStatus(statusUnsupported)
}

// rename overwrites nothing.
func rename(from, to string) error {
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if fi.Mode().IsRegular() {
		switch err := unix.Link(from, to); err {
		case nil:
			if err := unix.Unlink(from); err != nil {
				_ = unix.Unlink(to)
				return err
			}
			return nil
		case unix.EOPNOTSUPP, unix.ENOSYS, unix.EXDEV, unix.EPERM, unix.EMLINK: // no hard links there
		default:
			return err
		}
	}
	if _, err := os.Stat(to); err == nil {
		return errStatus(statusFailure)
	}
	return unix.Rename(from, to)
}

// target is what attributes are set of: a file that is open, or a path.
type target struct {
	path string
	file *os.File
	link bool // the path itself, where it is a link
}

func setstat(a attrs, t target) (err error) {
	flags := 0
	if t.link {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	keep := func(e error) { // the last of them is told
		if e != nil {
			err = e
		}
	}
	if a.flags&attrSize != 0 {
		switch {
		case t.link:
			return errStatus(statusBadMessage)
		case t.file != nil:
			keep(t.file.Truncate(int64(a.size)))
		default:
			keep(os.Truncate(t.path, int64(a.size)))
		}
	}
	if a.flags&attrMode != 0 {
		mode := a.mode & 0o7777
		if t.file != nil {
			keep(control(t.file, func(fd int) error { return unix.Fchmod(fd, mode) }))
		} else if t.link {
			keep(lchmod(t.path, mode))
		} else {
			keep(unix.Chmod(t.path, mode))
		}
	}
	if a.flags&attrTimes != 0 {
		if t.file != nil {
			keep(control(t.file, func(fd int) error {
				return unix.Futimes(fd, []unix.Timeval{unix.NsecToTimeval(int64(a.atime) * 1e9), unix.NsecToTimeval(int64(a.mtime) * 1e9)})
			}))
		} else {
			keep(unix.UtimesNanoAt(unix.AT_FDCWD, t.path, []unix.Timespec{unix.NsecToTimespec(int64(a.atime) * 1e9), unix.NsecToTimespec(int64(a.mtime) * 1e9)}, flags))
		}
	}
	if a.flags&attrOwner != 0 {
		if t.file != nil {
			keep(control(t.file, func(fd int) error { return unix.Fchown(fd, int(a.uid), int(a.gid)) }))
		} else {
			keep(unix.Fchownat(unix.AT_FDCWD, t.path, int(a.uid), int(a.gid), flags))
		}
	}
	return err
}

// control does something to an open file. Its Fd would make it one that blocks for good.
func control(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if e := c.Control(func(fd uintptr) { err = do(int(fd)) }); e != nil {
		return e
	}
	return err
}

// lchmod changes the mode of what is no link; for a link there is none. Kernels before 6.6 have no call for it.
func lchmod(path string, mode uint32) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

func (s *server) stat(r request) error {
	var fi os.FileInfo
	var err error
	switch r.typ {
	case typeStat:
		fi, err = os.Stat(s.path(r.path))
	case typeLstat:
		fi, err = os.Lstat(s.path(r.path))
	default:
		h := s.handles[r.handle]
		if h == nil {
			return errStatus(statusFailure)
		}
		fi, err = h.Stat()
	}
	if err != nil {
		return err
	}
	s.reply(typeAttrs, r.id)
	s.out = attrsOf(fi).append(s.out)
	return nil
}

func attrsOf(fi os.FileInfo) attrs {
	a := attrs{flags: attrSize | attrOwner | attrMode | attrTimes, size: uint64(fi.Size()), mtime: uint32(fi.ModTime().Unix())}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		a.uid, a.gid, a.mode, a.atime = st.Uid, st.Gid, st.Mode, uint32(st.Atim.Sec)
	}
	return a
}

func (s *server) open(r request) error {
	if len(s.handles) >= maxHandles {
		return errStatus(statusFailure)
	}
	h := &handle{path: s.path(r.path), dir: r.typ == typeOpendir}
	flags, mode := unix.O_DIRECTORY, uint32(0)
	if !h.dir {
		flags, mode = 0, 0o666
		switch r.flags & (openRead | openWrite) {
		case openRead | openWrite:
			flags = unix.O_RDWR
		case openWrite:
			flags = unix.O_WRONLY
		}
		for bit, flag := range map[uint32]int{openAppend: unix.O_APPEND, openCreate: unix.O_CREAT, openTruncate: unix.O_TRUNC, openExclusive: unix.O_EXCL} {
			if r.flags&bit != 0 {
				flags |= flag
			}
		}
		if r.attrs.flags&attrMode != 0 {
			mode = r.attrs.mode & 0o7777
		}
		h.appends = r.flags&openAppend != 0
	}
	fd, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		fd, err = unix.Open(h.path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, mode) // a pipe without a peer must hold up nobody
	}
	if err != nil {
		return err
	}
	h.File = os.NewFile(uintptr(fd), h.path)
	name := strconv.FormatUint(s.next, 10)
	s.next++
	s.mu.Lock()
	s.handles[name] = h
	s.mu.Unlock()
	s.reply(typeHandle, r.id)
	s.out = str(s.out, name)
	return nil
}

// file is an open file, and no directory.
func (s *server) file(name string) (*handle, error) {
	h := s.handles[name]
	if h == nil || h.dir {
		return nil, errStatus(statusFailure)
	}
	return h, nil
}

func (s *server) read(r request) error {
	h, err := s.file(r.handle)
	if err != nil {
		return err
	}
	s.reply(typeData, r.id)
	s.out = u32(s.out, 0)
	at := len(s.out)
	n := int(min(r.length, maxData))
	if cap(s.out) < at+n {
		s.out = append(make([]byte, 0, at+n), s.out...)
	}
	n, err = h.ReadAt(s.out[at:at+n], int64(r.offset))
	if n == 0 && r.length > 0 {
		if errors.Is(err, io.EOF) {
			return errStatus(statusEOF)
		}
		return err
	}
	s.out = s.out[:at+n]
	binary.BigEndian.PutUint32(s.out[at-4:], uint32(n))
	return nil
}

func (s *server) write(r request) error {
	h, err := s.file(r.handle)
	if err != nil {
		return err
	}
	if h.appends {
		_, err = h.Write(r.data)
	} else {
		_, err = h.WriteAt(r.data, int64(r.offset))
	}
	s.status(r.id, err)
	return nil
}

func (s *server) readdir(r request) error {
	h := s.handles[r.handle]
	if h == nil || !h.dir {
		return errStatus(statusFailure)
	}
	s.reply(typeName, r.id)
	at, n := len(s.out), uint32(0)
	s.out = u32(s.out, 0)
	for n == 0 { // none at all would be the end for the client
		var list []string
		if !h.dotsSaid {
			h.dotsSaid = true
			list = []string{".", ".."}
		}
		more, err := h.Readdirnames(perRead - len(list))
		if list = append(list, more...); len(list) == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				return errStatus(statusEOF)
			}
			return err
		}
		for _, name := range list {
			fi, err := os.Lstat(h.path + "/" + name)
			if err != nil {
				continue // gone meanwhile
			}
			n++
			a := attrsOf(fi)
			s.out = a.append(str(str(s.out, name), s.names.long(name, fi, a)))
		}
	}
	binary.BigEndian.PutUint32(s.out[at:], n)
	return nil
}

func (s *server) resolve(r request) error {
	if r.typ == typeReadlink {
		link, err := os.Readlink(s.path(r.path))
		if err != nil {
			return err
		}
		s.one(r.id, link)
		return nil
	}
	real, err := realpath(s.path(cmp.Or(r.path, ".")))
	if err != nil {
		return err
	}
	s.one(r.id, real)
	return nil
}

// realpath resolves an absolute path one name after another, so that ".." after a link is the link's target's. The last name need not be there.
func realpath(path string) (string, error) {
	real, links := "/", 0
	for left := path; left != ""; {
		name, rest, more := strings.Cut(left, "/")
		left = rest
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		fi, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) && !more {
			return next, nil
		}
		if err != nil {
			return "", err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			real = next
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		to, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(to) {
			real = "/"
		}
		if left = to; more {
			left += "/" + rest
		}
	}
	return real, nil
}

func (s *server) extended(r request) error {
	path := s.path(r.path)
	var err error
	switch r.name {
	case "posix-rename@openssh.com":
		err = unix.Rename(path, s.path(r.other))
	case "hardlink@openssh.com":
		err = unix.Link(path, s.path(r.other))
	case "lsetstat@openssh.com":
		err = setstat(r.attrs, target{path: path, link: true})
	case "fsync@openssh.com":
		var h *handle
		if h, err = s.file(r.handle); err == nil {
			err = h.Sync()
		}
	case "copy-data":
		err = s.copyData(r)
	case "statvfs@openssh.com", "fstatvfs@openssh.com":
		return s.statvfs(r)
	case "limits@openssh.com":
		s.reply(typeExtendedReply, r.id)
		s.out = u64(u64(u64(u64(s.out, maxPacket), maxData), maxData), maxHandles)
		return nil
	case "expand-path@openssh.com":
		return s.expand(r)
	case "home-directory":
		home, ok := s.dir, true
		if r.path != "" {
			home, ok = s.names.home(r.path)
		}
		if !ok {
			return errStatus(statusFailure)
		}
		s.one(r.id, home)
		return nil
	case "users-groups-by-id@openssh.com":
		s.reply(typeExtendedReply, r.id)
		s.out = str(s.out, string(s.names.pack(r.uids, s.names.user)))
		s.out = str(s.out, string(s.names.pack(r.gids, s.names.group)))
		return nil
	default:
		err = errStatus(statusUnsupported)
	}
	s.status(r.id, err)
	return nil
}

// expand resolves ~ and ~user at the beginning.
func (s *server) expand(r request) error {
	path := s.path(cmp.Or(r.path, "."))
	if len(r.path) > 0 && r.path[0] == '~' {
		name, rest := r.path[1:], ""
		for i := range name {
			if name[i] == '/' {
				name, rest = name[:i], name[i:]
				break
			}
		}
		home := s.dir
		if name != "" {
			var ok bool
			if home, ok = s.names.home(name); !ok {
				return unix.ENOENT
			}
		}
		path = home + rest
	}
	real, err := realpath(path)
	if err != nil {
		return err
	}
	s.one(r.id, real)
	return nil
}

// same tells whether two handles are of one file. Copying a device to itself ends nowhere either.
func same(a, b *handle) bool {
	x, err := a.Stat()
	if err != nil {
		return true
	}
	y, err := b.Stat()
	return err != nil || a.path == b.path || os.SameFile(x, y)
}

func (s *server) copyData(r request) error {
	from, err := s.file(r.handle)
	if err != nil {
		return err
	}
	to, err := s.file(r.target)
	if err != nil {
		return err
	}
	if same(from, to) { // which would grow as it is read
		return errStatus(statusFailure)
	}
	length := int64(r.length)
	if length <= 0 { // to the end
		length = 1<<63 - 1 - int64(r.offset)
	}
	buf := make([]byte, maxData)
	for at := int64(0); at < length; {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		n, err := from.ReadAt(buf[:min(length-at, maxData)], int64(r.offset)+at)
		if n > 0 {
			var werr error
			if to.appends {
				_, werr = to.Write(buf[:n])
			} else {
				_, werr = to.WriteAt(buf[:n], int64(r.to)+at)
			}
			if werr != nil {
				return werr
			}
			at += int64(n)
		}
		if errors.Is(err, io.EOF) {
			if r.length != 0 && at < length {
				return errStatus(statusEOF)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *server) statvfs(r request) error {
	var st unix.Statfs_t
	var err error
	if r.name == "statvfs@openssh.com" {
		err = unix.Statfs(s.path(r.path), &st)
	} else if h := s.handles[r.handle]; h != nil {
		err = control(h.File, func(fd int) error { return unix.Fstatfs(fd, &st) })
	} else {
		err = errStatus(statusFailure)
	}
	if err != nil {
		return err
	}
	s.reply(typeExtendedReply, r.id)
	for _, v := range []uint64{
		uint64(st.Bsize), uint64(st.Frsize), st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Ffree,
		uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32, uint64(st.Flags) & (unix.ST_RDONLY | unix.ST_NOSUID), uint64(st.Namelen),
	} {
		s.out = u64(s.out, v)
	}
	return nil
}
