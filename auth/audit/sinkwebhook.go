package audit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// webhookSink posts batches of lines. An answer of 2xx means that the receiver has them.
type webhookSink struct {
	url    string
	secret []byte // of the HMAC; nil: none
	token  string
	client *http.Client
}

const (
	timestampHeader = "X-Hawser-Timestamp"
	signatureHeader = "X-Hawser-Signature"
)

func newWebhook(c SinkConfig) (*webhookSink, error) {
	roots, err := rootsOf(c.CAFile)
	if err != nil {
		return nil, err
	}
	w := &webhookSink{url: c.URL, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
		// A redirect would carry the events, and the token, to where nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if c.SecretFile != "" {
		if w.secret, err = secretOf(c.SecretFile); err != nil {
			return nil, fmt.Errorf("secret_file: %w", err)
		}
	}
	if c.TokenFile != "" {
		b, err := secretOf(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token_file: %w", err)
		}
		w.token = string(b)
	}
	return w, nil
}

func secretOf(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return nil, errors.New("the file is empty")
	}
	return b, nil
}

func (w *webhookSink) deliver(ctx context.Context, batch []message) error {
	var body []byte
	for _, m := range batch {
		body = append(append(body, m.line...), '\n')
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	if w.token != "" {
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	if w.secret != nil {
		at := strconv.FormatInt(time.Now().Unix(), 10)
		m := hmac.New(sha256.New, w.secret)
		m.Write([]byte(at + "."))
		m.Write(body)
		r.Header.Set(timestampHeader, at)
		r.Header.Set(signatureHeader, "sha256="+hex.EncodeToString(m.Sum(nil)))
	}
	res, err := w.client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("it answered %s", res.Status)
	}
	return nil
}

func (w *webhookSink) close() { w.client.CloseIdleConnections() }
