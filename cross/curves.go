package cross

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"text/template"
)

// Three of Go's four NIST curves are left out of the agent: they are 300 kB of
// unrolled arithmetic on MIPS, and all it could do with them is check a
// person's ECDSA key on P-384 or P-521 (nothing uses P-224), or be talked into
// a key exchange on them by a hub. Our own keys are Ed25519, key exchange is
// X25519 with ML-KEM; P-256, which security keys use, stays. A key on a curve
// that is left out does not parse; no call can succeed or panic.
//
// curvesDir is where Go keeps them. Not for FIPS builds.
const curvesDir = "src/crypto/internal/fips140/nistec"

var leftOut = []string{"224", "384", "521"}

// curveMethods is what Go's file for a curve must have, no less and no more,
// for the replacement to stand for it.
var curveMethods = []string{"Add", "Bytes", "BytesCompressed", "BytesX", "Double", "ScalarBaseMult", "ScalarMult", "Select", "Set", "SetBytes", "SetGenerator"}

var curveSource = template.Must(template.New("curve").Parse(`package nistec

import "errors"

var errP{{.}} = errors.New("P-{{.}} is left out of this build")

type P{{.}}Point struct{}

func NewP{{.}}Point() *P{{.}}Point { return new(P{{.}}Point) }

func (p *P{{.}}Point) Set(*P{{.}}Point) *P{{.}}Point { return p }
func (p *P{{.}}Point) SetGenerator() *P{{.}}Point { return p }
func (p *P{{.}}Point) SetBytes([]byte) (*P{{.}}Point, error) { return nil, errP{{.}} }
func (p *P{{.}}Point) Bytes() []byte { return []byte{0} }
func (p *P{{.}}Point) BytesX() ([]byte, error) { return nil, errP{{.}} }
func (p *P{{.}}Point) BytesCompressed() []byte { return []byte{0} }
func (p *P{{.}}Point) Add(_, _ *P{{.}}Point) *P{{.}}Point { return p }
func (p *P{{.}}Point) Double(*P{{.}}Point) *P{{.}}Point { return p }
func (p *P{{.}}Point) Select(_, _ *P{{.}}Point, _ int) *P{{.}}Point { return p }
func (p *P{{.}}Point) ScalarMult(*P{{.}}Point, []byte) (*P{{.}}Point, error) { return nil, errP{{.}} }
func (p *P{{.}}Point) ScalarBaseMult([]byte) (*P{{.}}Point, error) { return nil, errP{{.}} }
`))

// withoutCurve is what replaces the source of a curve, which is given to be
// sure that the replacement still fits.
func withoutCurve(curve string, original []byte) ([]byte, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "", original, 0)
	if err != nil {
		return nil, err
	}
	var methods []string
	for _, d := range f.Decls {
		if d, ok := d.(*ast.FuncDecl); ok && d.Recv != nil && d.Name.IsExported() {
			if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok && fmt.Sprint(star.X) == "P"+curve+"Point" {
				methods = append(methods, d.Name.Name)
			}
		}
	}
	slices.Sort(methods)
	if !slices.Equal(methods, curveMethods) {
		return nil, fmt.Errorf("curve P-%s has the methods %v in this Go release, and cross/curves.go replaces %v: mend it", curve, methods, curveMethods)
	}
	var b bytes.Buffer
	err = curveSource.Execute(&b, curve)
	return b.Bytes(), err
}
