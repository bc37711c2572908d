package edge

import "testing"

func TestSmallMachinesAreTreatedAsSuch(t *testing.T) {
	for _, tt := range []struct {
		name    string
		m       machine
		small   bool
		streams int
		limit   int64
	}{
		{"a 32 MB router", machine{ram: 32 << 20, kernel: 5}, true, 32, 12 << 20},
		{"a 128 MB router", machine{ram: 128 << 20, kernel: 6}, true, 128, 128 << 20 / 5},
		{"an old kernel with plenty", machine{ram: 2 << 30, kernel: 4}, true, 128, 128 << 20},
		{"a gateway", machine{ram: 1 << 30, kernel: 6}, false, 128, 128 << 20},
		{"nothing known", machine{}, false, 128, 24 << 20},
	} {
		if cells := tt.m.screenCells(); (cells == 0) != (tt.m.ram < noOffloadRAM) {
			t.Errorf("%s: %d cells of a screen", tt.name, cells)
		}
		limit, percent := tt.m.memory()
		if tt.m.small() != tt.small || tt.m.streams() != tt.streams || limit != tt.limit || percent < 30 || percent > 100 {
			t.Errorf("%s: small %v, %d streams, limit %d, GOGC %d", tt.name, tt.m.small(), tt.m.streams(), limit, percent)
		}
	}
}

func TestThisMachineIsKnown(t *testing.T) {
	if m := readMachine(); m.ram < 1<<20 || m.kernel < 3 {
		t.Fatalf("read %+v", m)
	}
}
