package store

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A stored record: create revision, modification revision, lease (8 bytes each, big-endian), value.
const recordHeader = 24

func encodeRecord(kv KV) []byte {
	b := make([]byte, 0, recordHeader+len(kv.Value))
	b = binary.BigEndian.AppendUint64(b, kv.CreateRev)
	b = binary.BigEndian.AppendUint64(b, kv.ModRev)
	b = binary.BigEndian.AppendUint64(b, uint64(kv.Lease))
	return append(b, kv.Value...)
}

func decodeRecord(key string, b []byte) (KV, error) {
	if len(b) < recordHeader {
		return KV{}, fmt.Errorf("%w: record %q", ErrDamaged, key)
	}
	return KV{
		Key: key, Value: append([]byte{}, b[recordHeader:]...),
		CreateRev: binary.BigEndian.Uint64(b), ModRev: binary.BigEndian.Uint64(b[8:]),
		Lease: LeaseID(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

// A changelog entry is the events of one revision: type, key length, key, record length, record.
func encodeEvents(events []Event) []byte {
	var b []byte
	for _, e := range events {
		record := encodeRecord(e.KV)
		b = append(b, byte(e.Type))
		b = append(binary.AppendUvarint(b, uint64(len(e.KV.Key))), e.KV.Key...)
		b = append(binary.AppendUvarint(b, uint64(len(record))), record...)
	}
	return b
}

func decodeEvents(b []byte, prefix string) ([]Event, error) {
	var events []Event
	for len(b) > 0 {
		t := EventType(b[0])
		key, rest, ok := cutBytes(b[1:])
		record, rest, ok2 := cutBytes(rest)
		if !ok || !ok2 {
			return nil, fmt.Errorf("%w: changelog", ErrDamaged)
		}
		b = rest
		if !strings.HasPrefix(string(key), prefix) {
			continue
		}
		kv, err := decodeRecord(string(key), record)
		if err != nil {
			return nil, err
		}
		events = append(events, Event{Type: t, KV: kv})
	}
	return events, nil
}

func cutBytes(b []byte) (v, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	return b[w : w+int(n)], b[w+int(n):], true
}

// checkTxn enforces the bounds of limits.go and that a transaction names each key once.
func checkTxn(conds []Cond, ops []Op) error {
	if len(conds) > maxOps || len(ops) > maxOps {
		return fmt.Errorf("%w: %d conditions, %d writes", ErrTooLarge, len(conds), len(ops))
	}
	size := 0
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if op.Key == "" || len(op.Key) > MaxKey || len(op.value) > MaxValue {
			return fmt.Errorf("%w: key of %d bytes, value of %d", ErrTooLarge, len(op.Key), len(op.value))
		}
		if seen[op.Key] {
			return fmt.Errorf("store: key %q twice in one transaction", op.Key)
		}
		seen[op.Key] = true
		size += 2 * (len(op.Key) + len(op.value)) // the record and its changelog entry
	}
	if size > 2*maxTxn {
		return fmt.Errorf("%w: transaction of %d bytes", ErrTooLarge, size/2)
	}
	return nil
}

// holds tells whether the condition is met by the key's present state.
func (c Cond) holds(kv KV, exists bool) bool {
	switch c.kind {
	case condAbsent:
		return !exists
	case condExists:
		return exists
	default:
		return exists && kv.ModRev == c.modRev
	}
}

// apply makes the events of a transaction at revision rev; get reads the present state.
func apply(rev uint64, conds []Cond, ops []Op, get func(key string) (KV, bool, error)) ([]Event, error) {
	for _, c := range conds {
		kv, exists, err := get(c.Key)
		if err != nil {
			return nil, err
		}
		if !c.holds(kv, exists) {
			return nil, fmt.Errorf("%w: %s", ErrConflict, c.Key)
		}
	}
	var events []Event
	for _, op := range ops {
		old, exists, err := get(op.Key)
		switch {
		case err != nil:
			return nil, err
		case op.delete && !exists:
			continue
		case op.delete:
			events = append(events, Event{Type: EventDelete, KV: KV{Key: op.Key, ModRev: rev, Lease: old.Lease}})
		default:
			kv := KV{Key: op.Key, Value: append([]byte{}, op.value...), CreateRev: rev, ModRev: rev, Lease: op.lease}
			if exists {
				kv.CreateRev = old.CreateRev
			}
			events = append(events, Event{Type: EventPut, KV: kv})
		}
	}
	return events, nil
}
