package auth

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"hawser/auth/api/apiclient"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// callEmpty calls any method with an empty message, which decodes as every request.
func callEmpty(ctx context.Context, _ *apiclient.Client, addr string, cert *tls.Certificate, procedure string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tc := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		tc.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	c := connect.NewClient[emptypb.Empty, emptypb.Empty](&http.Client{Transport: tr}, "https://"+addr+procedure)
	if strings.HasSuffix(procedure, "/Watch") || strings.HasSuffix(procedure, "/GetRecording") {
		stream, err := c.CallServerStream(ctx, connect.NewRequest(&emptypb.Empty{}))
		if err != nil {
			return err
		}
		defer stream.Close()
		if stream.Receive() {
			return nil
		}
		return stream.Err()
	}
	_, err := c.CallUnary(ctx, connect.NewRequest(&emptypb.Empty{}))
	return err
}
