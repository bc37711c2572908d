package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// portalFloor and portalCap bound the wait after a captive portal answered: a person has to log in there, which takes a minute and not an hour.
const portalFloor, portalCap = 30 * time.Second, 120 * time.Second

// portalDelay is the wait before the next attempt behind a captive portal. random is uniform in [0,n).
func portalDelay(random func(n int64) int64) time.Duration {
	return portalFloor + time.Duration(random(int64(portalCap-portalFloor)+1))
}

// A foreignError is an answer by no hub of any cluster: on the way sits a captive portal, a TLS-inspecting firewall, or nothing of ours at all. It
// never changes anything stored: the same network may let us through in a minute. No plain-HTTP request is made to find out
// more: it would tell the network what the device is, and be as forged as the rest.
type foreignError struct {
	issuer, subject string // both empty: not even TLS, or
	protocol        bool   // TLS in which nothing of ours is spoken
}

func (e *foreignError) Error() string {
	if e.protocol {
		return "what answered does not speak this agent's protocol, " + tunnel.ALPN + ": a captive portal or middlebox, or a hub of another version; " +
			"log in to this network, let TLS to the hub pass uninspected, or update the older"
	}
	if e.issuer == "" {
		return "a captive portal or middlebox answered, not in TLS 1.3; log in to this network, or let TLS to the hub pass uninspected"
	}
	return "a captive portal or TLS middlebox answered: issuer \"" + e.issuer + "\", subject \"" + e.subject +
		"\"; log in to this network, or let TLS to the hub pass uninspected"
}

// checkForeign returns a *foreignError for a chain whose leaf is no Hawser part's, whatever its cluster.
func checkForeign(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return nil
	}
	leaf := chain[0]
	for _, u := range leaf.URIs {
		if u.Scheme == "hawser" {
			return nil
		}
	}
	return &foreignError{issuer: quotedName(leaf.Issuer), subject: quotedName(leaf.Subject)}
}

// quotedName is the part of a certificate's name that a person knows it by.
func quotedName(n pkix.Name) string {
	text := n.CommonName
	if text == "" && len(n.Organization) > 0 {
		text = n.Organization[0]
	}
	if text == "" {
		text = "(no name)"
	}
	return wire.Quote(text, 60)
}

// classify says what kind of failure an attempt to connect came to, with a text for people. Where several carriers and addresses failed each in its
// way the most telling counts.
func classify(err error) (wire.EventKind, string) {
	if r, ok := errors.AsType[*RefusedError](err); ok {
		kind := wire.EventRefused
		switch {
		case r.Code == wire.CloseExpired:
			kind = wire.EventCertificate
		case r.authority():
			kind = wire.EventUnauthorized
		}
		return kind, r.Error()
	}
	if v, ok := errors.AsType[versionError](err); ok {
		return wire.EventRefused, v.Error()
	}
	if f, ok := errors.AsType[*foreignError](err); ok {
		return wire.EventIntercepted, f.Error()
	}
	if f := notOurTLS(err); f != nil {
		return wire.EventIntercepted, f.Error()
	}
	if p, ok := errors.AsType[*proxyError](err); ok && !noRoute(err) {
		return wire.EventProxy, p.Error()
	}
	if errors.Is(err, ErrHub) || errors.Is(err, ErrPin) || errors.Is(err, errExpired) {
		return wire.EventCertificate, err.Error()
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		if strings.Contains(d.Err, "unreachable") { // package net keeps only the text
			return wire.EventNoRoute, "no network: the resolver is unreachable"
		}
		return wire.EventDNS, "DNS: " + wire.Quote(d.Name, 80) + ": " + d.Err
	}
	// A race over both families has a failed IPv6 attempt on every network without it, so what got furthest counts.
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return wire.EventUnreachable, "the hub's port is closed (connection refused)"
	case timedOut(err):
		return wire.EventUnreachable, "no answer"
	case noRoute(err):
		return wire.EventNoRoute, "no route to any hub"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return wire.EventNoRoute, "a local firewall forbids it"
	}
	return wire.EventUnreachable, err.Error()
}

// notOurTLS is an answer that no hub of this version gives: no TLS, an older one, or one in which our protocol is not known; else nil. Package tls has a
// type for the first alone.
func notOurTLS(err error) *foreignError {
	if err == nil {
		return nil
	}
	text := err.Error()
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case !plain && strings.Contains(text, "tls: ") && strings.Contains(text, "no application protocol"):
		return &foreignError{protocol: true}
	case plain, strings.Contains(text, "tls: ") && strings.Contains(text, "protocol version"):
		return &foreignError{}
	}
	return nil
}

func noRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETDOWN) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// timedOut reports whether any attempt got no answer at all in its time, and not for want of a route.
func timedOut(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return true
	}
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}
