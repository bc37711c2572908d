package cross

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// linkEdits make the linker write a smaller agent of the same code:
//
//   - It leaves out the tables by which the runtime finds the line of an address
//     and the values of a function's arguments: a stack trace has functions and
//     offsets in them, and [Target.Lines] finds the lines.
//   - Segments follow each other in the file, as GNU ld has them, and do not
//     begin at a multiple of the page size, which on most targets is taken to be
//     64 KiB: memory is laid out with the same offset in a page as the file. They
//     begin at a multiple of 256, which is more than any section is aligned to.
var linkEdits = []edit{
	// No lines, no files, and no table of which arguments are alive.
	{linkLoader, `		case goobj.AuxPcline:
			pcline = l.resolve(r, a.Sym())
		case goobj.AuxPcfile:
			pcfile = l.resolve(r, a.Sym())
		case goobj.AuxPcinline:
			pcinline = l.resolve(r, a.Sym())
		case goobj.AuxPcdata:
			pcdata = append(pcdata, l.resolve(r, a.Sym()))
		}
	}
	return
`, `		case goobj.AuxPcinline:
			pcinline = l.resolve(r, a.Sym())
		case goobj.AuxPcdata:
			if len(pcdata) == abi.PCDATA_ArgLiveIndex {
				pcdata = append(pcdata, 0)
				continue
			}
			pcdata = append(pcdata, l.resolve(r, a.Sym()))
		}
	}
	if len(pcdata) == abi.PCDATA_ArgLiveIndex+1 {
		pcdata = pcdata[:abi.PCDATA_ArgLiveIndex]
	}
	return
`},
	// As many tables as the function above returns.
	{linkLoader, `		if a.Type() == goobj.AuxPcdata {
			n++
		}
	}
`, `		if a.Type() == goobj.AuxPcdata {
			n++
		}
	}
	if n == abi.PCDATA_ArgLiveIndex+1 {
		n--
	}
`},
	// Nothing of arguments, and no empty places behind the last table.
	{linkLoader, `			fd = append(fd, l.resolve(r, a.Sym()))
		}
	}
`, `			if len(fd) == abi.FUNCDATA_ArgInfo || len(fd) == abi.FUNCDATA_ArgLiveInfo {
				fd = append(fd, 0)
				continue
			}
			fd = append(fd, l.resolve(r, a.Sym()))
		}
	}
	for len(fd) > 0 && fd[len(fd)-1] == 0 {
		fd = fd[:len(fd)-1]
	}
`},
	// As many as the function above returns.
	{linkLoader, `	n := 0
	_, auxs := l.auxs(i)
	for j := range auxs {
		a := &auxs[j]
		if a.Type() == goobj.AuxFuncdata {
			n++
		}
	}
	return n
`, `	return len(l.Funcdata(i, nil))
`},
	// What was left out has no place.
	{linkTables, `		if _, ok := seen[pcSym]; !ok {
			datSize`, `		if _, ok := seen[pcSym]; !ok && pcSym != 0 {
			datSize`},
	// No names of files.
	{linkTables, `f func(*sym.CompilationUnit, goobj.CUFileIndex)) {
`, `f func(*sym.CompilationUnit, goobj.CUFileIndex)) {
	return
`},
	// Read-only data, then data, then the place of both in the file; the last segment is empty.
	{linkLayout, segment + `
		order = append(order, &Segrodata)`, `		va = uint64(Rnd(int64(va), 256) + *FlagRound)

		order = append(order, &Segrodata)`},
	{linkLayout, `	va = uint64(Rnd(int64(va), *FlagRound))
	if ctxt.HeadType == objabi.Haix && len(Segrelrodata`, `	va = uint64(Rnd(int64(va), 256) + *FlagRound)
	if ctxt.HeadType == objabi.Haix && len(Segrelrodata`},
	{linkLayout, `				seg.Fileoff = uint64(Rnd(int64(prev.Fileoff+prev.Filelen), *FlagRound))
				if seg`, `				seg.Fileoff = uint64(Rnd(int64(prev.Fileoff+prev.Filelen), 256))
				if seg.Length > 0 && seg`},
}

const (
	linkLoader = "src/cmd/link/internal/loader/loader.go"
	linkTables = "src/cmd/link/internal/ld/pcln.go"
	linkLayout = "src/cmd/link/internal/ld/data.go"

	segment = "		va = uint64(Rnd(int64(va), *FlagRound))\n"
)

// linker builds the linker with linkEdits below dir, and returns what `go build
// -toolexec` is to be told to have it used.
func linker(ctx context.Context, dir string) (string, error) {
	dir, err := os.MkdirTemp(dir, "linker-")
	if err != nil {
		return "", err
	}
	var changes []change
	for _, e := range linkEdits {
		changes = append(changes, e.change())
	}
	list, err := overlay(ctx, dir, changes)
	if err != nil {
		return "", err
	}
	link := filepath.Join(dir, "link")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-overlay", list, "-o", link, "cmd/link")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH, "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Go's linker: %w\n%s", err, msg)
	}
	script := filepath.Join(dir, "toolexec")
	return script, os.WriteFile(script, []byte(`#!/bin/sh
case $1 in
*/link) shift; exec "${0%/*}/link" "$@" ;;
esac
exec "$@"
`), 0o755)
}
