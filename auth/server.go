package auth

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api/apiconnect"
	"hawser/auth/audit"
	"hawser/auth/ca"
	chunkseal "hawser/auth/seal"
	"hawser/auth/store"
	"hawser/tunnel"
)

// Server is the auth service. Its methods are safe for concurrent use.
type Server struct {
	cfg      Config
	log      *slog.Logger
	info     clusterInfo
	set      *ca.Set
	rotation rotation
	epoch    string // of this run, for Watch

	state      store.State
	recordings store.Recordings
	space      space
	thinned    thinned
	open       openRecordings
	audit      *audit.Log
	sinks      *audit.Sinks
	listener   net.Listener
	ready      chan struct{}
	view       *view
	policies   policyCache
	hubs       *hubTable
	places     *places
	lists      hubLists
	locks      signedLocks
	guesses    *guesses
	admits     *guesses
	readers    readers
	incidents  *guesses
	reported   *guesses // reports of refusals
	hasher     *hasher
	lockout    *lockout
	refusals   *guesses // what a source may put into the audit log by failing to log in
	calls      *guesses // what it may put there by calls that are refused before anybody is known
	second     *secondFactors
	uses       *keyUses
	listening  listening
	sealKey    *ecdh.PrivateKey // of recordings that edges make
	steps      *stepsUsed
	joins      chan struct{} // held by who takes names and keys for devices: they would only make one another begin anew
	logins     targetLogins  // to servers without an agent
	clones     *guesses      // what is told and done about one device
	strangers  *guesses      // keys that nobody imported, told by source
	backups    chan struct{} // held by the one backup that is being made
	searching  chan struct{} // held by who searches recordings
	indexing   *indexing
	checks     *checks
	invited    invitations
	shares     *guesses      // invitations, messages and put-outs of one person
	giving     chan struct{} // held by who gives or takes roles, or acts on a user by the roles he has
	stop       chan struct{} // closed when Run begins to end

	certMu sync.Mutex
	cert   *tls.Certificate
	renew  time.Time // when cert is half through its life
}

// New opens what Init made and binds the address; nothing is served before Run.
// A Server that is not Run must be Closed.
func New(c Config) (_ *Server, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Listen == "" {
		return nil, errors.New("listen: the address is missing; give --listen HOST:PORT")
	}
	c = c.withDefaults()
	info, set, err := openData(c)
	if err != nil {
		return nil, err
	}
	sealKey, err := chunkseal.Key(*set.SecretKey())
	if err != nil {
		return nil, err
	}
	s := &Server{
		sealKey: sealKey,
		cfg:     c, log: c.Logger, info: info, set: set, epoch: rand.Text(),
		ready: make(chan struct{}), view: newView(), hubs: newHubTable(),
		lists: hubLists{changed: make(chan struct{})}, stop: make(chan struct{}), incidents: newGuesses(incidentBurst, incidentEvery), reported: newGuesses(reportBurst, reportEvery), joins: make(chan struct{}, 1), giving: make(chan struct{}, 1), backups: make(chan struct{}, 1), searching: make(chan struct{}, searches),
		clones: newGuesses(cloneBurst, cloneEvery), strangers: newGuesses(guessBurst, guessEvery),
		guesses: newGuesses(guessBurst, guessEvery), admits: newGuesses(admitBurst, time.Second/admitRate),
		hasher: newHasher(), lockout: newLockout(), refusals: newGuesses(refuseBurst, refuseEvery), second: newSecondFactors(),
		calls: newGuesses(callBurst, refuseEvery), shares: newGuesses(shareBurst, shareEvery), uses: newKeyUses(), steps: newStepsUsed(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.publish(set); err != nil {
		return nil, fmt.Errorf("sign the trust bundle: %w", err)
	}
	if s.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w; choose a free address with --listen, or end what holds this one", err)
	}
	for _, dir := range []string{stateDir, recordingsDir} {
		if err := os.MkdirAll(filepath.Join(c.Data, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make a store: %w", err)
		}
	}
	state, err := store.OpenState(filepath.Join(c.Data, stateDir), store.Options{Logger: c.Logger})
	if err != nil {
		return nil, fmt.Errorf("open the state: %w", err)
	}
	s.state = state
	recordings, err := store.OpenRecordings(filepath.Join(c.Data, recordingsDir), store.Options{Logger: c.Logger})
	if err != nil {
		return nil, fmt.Errorf("open the recordings: %w", err)
	}
	s.recordings = recordings
	s.indexing = newIndexing(s.recordings, c.Logger)
	s.indexing.closed = s.tellCommands
	s.checks = newChecks()
	if err := s.openAudit(); err != nil {
		return nil, err
	}
	if err := migrate(context.Background(), s.state, c.Logger, c.Now()); err != nil {
		return nil, err
	}
	if err := s.view.load(context.Background(), s.state); err != nil {
		return nil, err
	}
	if err := s.loadHubList(context.Background()); err != nil {
		return nil, err
	}
	if err := s.loadLastSeen(context.Background()); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	s.places = newPlaces(s.state, c.Logger, c.Now, s.epoch, s.capsOf)
	if err := s.places.load(context.Background()); err != nil {
		return nil, fmt.Errorf("read the places: %w", err)
	}
	if _, err := s.certificate(nil); err != nil {
		return nil, err
	}
	return s, nil
}

// Close releases what New took. Run does it itself. Idempotent.
func (s *Server) Close() error {
	var errs []error
	// The address first, so that nothing comes in; the stores under everything last.
	if s.listener != nil {
		if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.recordings != nil {
		errs = append(errs, s.recordings.Close())
	}
	if s.state != nil {
		errs = append(errs, s.state.Close())
	}
	if s.sinks != nil {
		errs = append(errs, s.sinks.Close())
	}
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	return errors.Join(errs...)
}

// Addr is the address bound.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Ready is closed when Run serves.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Cluster is the cluster's name.
func (s *Server) Cluster() string { return s.info.Cluster }

// Run serves until ctx ends, or something it cannot do without fails; then all it
// started has ended and the stores are closed. Call it once.
func (s *Server) Run(ctx context.Context) (err error) {
	asked := ctx
	// What is started ends when s.stop is closed, and not before: whatever ends then ends by this service.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(asked))
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.view.follow(ctx, s.state); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() { s.keepHubList(ctx) })
	wg.Go(func() { s.keepRotating(ctx) })
	wg.Go(func() { s.sweep(ctx) })
	wg.Go(func() { s.keepPlaces(ctx) })
	wg.Go(func() { s.upkeep(ctx) })
	wg.Go(func() { s.keepAudit(ctx) })
	wg.Go(func() { s.sweepJoins(ctx) })
	wg.Go(func() { s.keepUses(ctx) })
	wg.Go(func() { s.closeAbandoned(ctx) })
	wg.Go(func() { s.reevaluate(ctx) })
	wg.Go(func() { s.keepIndexing(ctx) })
	wg.Go(func() { s.keepChecking(ctx) })
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	handler, passed := s.handler(), newPasser(s)
	server := func() *http.Server {
		return &http.Server{
			Handler:           handler,
			Protocols:         protocols,
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       5 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			// Streams of a hub end with the service, so that Shutdown need not wait for them.
			BaseContext: func(net.Listener) context.Context { return ctx },
			ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
			HTTP2:       &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, MaxConcurrentStreams: 1000},
		}
	}
	tc := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.certificate,
		// Any certificate or none: access.go decides by method, and a joiner has only its own.
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2", "http/1.1"},
	}
	// What people send through a hub is TLS of their own inside the hub's.
	inner := server()
	inner.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return withVerified(passed.connContext(ctx, c), c)
	}
	innerTLS := tls.NewListener(passed, tc)
	outer := server()
	outer.ConnContext = withVerified
	outer.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){tunnel.ALPNPass: passed.take}
	tc = tc.Clone()
	tc.NextProtos = append(tc.NextProtos, tunnel.ALPNPass)
	tl := tls.NewListener(s.listener, tc)
	served := make(chan error, 2)
	wg.Go(func() { served <- outer.Serve(tl) })
	wg.Go(func() { served <- inner.Serve(innerTLS) })
	s.log.Info("auth serves", "addr", s.Addr(), "cluster", s.info.Cluster)
	close(s.ready)
	select {
	case <-asked.Done():
		if cause := context.Cause(asked); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
			err = cause
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-served:
	}
	close(s.stop)
	cancel(err)
	stop, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer done()
	// Both at once: a connection that a hub passes on ends outside when it has ended inside.
	for _, hs := range []*http.Server{inner, outer} {
		wg.Go(func() {
			if hs.Shutdown(stop) != nil {
				hs.Close()
			}
		})
	}
	wg.Wait()
	s.saveLastSeenNow(stop, 0)
	s.saveKeyUses(stop)
	return errors.Join(err, s.Close())
}

// stopping tells whether Run is ending.
func (s *Server) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (s *Server) handler() http.Handler {
	opts := []connect.HandlerOption{
		connect.WithInterceptors(&gate{s}),
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompressMinBytes(1 << 10), // a gzip stream costs more than a short answer's bytes
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, p any) error {
			s.log.Error("panic in a call", "procedure", spec.Procedure, "panic", p)
			return connect.NewError(connect.CodeInternal, errors.New("internal error; see the log of the auth service"))
		}),
	}
	mux := http.NewServeMux()
	mux.Handle(apiconnect.NewJoinServiceHandler(joinService{s}, opts...))
	mux.Handle(apiconnect.NewHubServiceHandler(hubService{s}, opts...))
	mux.Handle(apiconnect.NewPlaceServiceHandler(placeService{s}, opts...))
	mux.Handle(apiconnect.NewPresenceServiceHandler(presenceService{s}, opts...))
	mux.Handle(apiconnect.NewReplayServiceHandler(replayService{s}, opts...))
	mux.Handle(apiconnect.NewAdminServiceHandler(adminService{s}, opts...))
	mux.Handle(apiconnect.NewDeviceServiceHandler(deviceService{s}, opts...))
	mux.Handle(apiconnect.NewPolicyServiceHandler(policyService{s}, opts...))
	mux.Handle(apiconnect.NewCAServiceHandler(caService{s}, opts...))
	mux.Handle(apiconnect.NewLockServiceHandler(lockService{s}, opts...))
	mux.Handle(apiconnect.NewLoginServiceHandler(loginService{Server: s}, opts...))
	mux.Handle(apiconnect.NewAuditServiceHandler(auditService{Server: s}, opts...))
	mux.Handle(apiconnect.NewUserServiceHandler(userService{Server: s}, opts...))
	mux.Handle(apiconnect.NewTargetServiceHandler(targetService{s}, opts...))
	mux.Handle(apiconnect.NewBackupServiceHandler(backupService{s}, opts...))
	mux.Handle(apiconnect.NewSearchServiceHandler(searchService{s}, opts...))
	mux.Handle(apiconnect.NewForwardServiceHandler(forwardService{s}, opts...))
	mux.Handle(apiconnect.NewRecordingServiceHandler(recordingService{s}, opts...))
	mux.Handle(apiconnect.NewSharingServiceHandler(sharingService{s}, opts...))
	return s.guard(mux, opts...)
}

// certificate returns the service's own certificate, for a key of this run, made
// anew when half its life is over.
func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.certMu.Lock()
	defer s.certMu.Unlock()
	now := s.cfg.Now()
	if s.cert != nil && now.Before(s.renew) {
		return s.cert, nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := s.set.IssueAuth(ca.AuthRequest{UUID: s.info.UUID, Name: "auth", Cluster: s.info.Cluster, Key: pub, TTL: s.cfg.HubTTL, Now: now})
	if err != nil {
		return nil, fmt.Errorf("issue the service's certificate: %w", err)
	}
	s.cert = &tls.Certificate{Certificate: chain, PrivateKey: key}
	s.renew = now.Add(s.cfg.HubTTL / 2)
	return s.cert, nil
}
