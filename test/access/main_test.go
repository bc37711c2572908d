// Package access tests who gets in and who does not: the real programs, and real clients of a person's.
package access

import (
	"testing"

	"hawser/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
