// Package record_test drives the real programs for what is recorded, replayed and shared.
package record_test

import (
	"testing"

	"hawser/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
