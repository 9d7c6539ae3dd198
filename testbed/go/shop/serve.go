package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// faults are what the server does wrong on purpose; they can change while it runs.
type faults struct {
	mu         sync.Mutex
	errors     share // of the requests, answered 500
	logErrors  share // of the requests, answered well, but with an error in the log
	latency    time.Duration
	neverReady bool
}

// share is a part of the requests, diffused: 0.2 takes exactly every fifth. Millionths keep it exact.
type share struct{ ppm, owed int64 }

func (s *share) next() bool {
	s.owed += s.ppm
	if s.owed < 1_000_000 {
		return false
	}
	s.owed -= 1_000_000
	return true
}

func (s *share) set(value string) error {
	ratio, err := strconv.ParseFloat(value, 64)
	if err == nil && !(ratio >= 0 && ratio <= 1) {
		err = errors.New("not within 0..1")
	}
	if ppm := int64(ratio*1_000_000 + 0.5); err == nil && ppm != s.ppm {
		*s = share{ppm: ppm}
	}
	return err
}

// next says what happens to one request.
func (f *faults) next() (fail, logError bool, latency time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errors.next(), f.logErrors.next(), f.latency
}

func (f *faults) broken() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.neverReady
}

// set changes the faults that are named in values (error_ratio, log_error_ratio, latency, never_ready) and leaves the
// others.
// Nothing changes when one of them is malformed.
func (f *faults) set(values url.Values) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	failing, logging, latency, neverReady := f.errors, f.logErrors, f.latency, f.neverReady
	for name := range values {
		value, err := values.Get(name), error(nil)
		switch name {
		case "error_ratio":
			err = failing.set(value)
		case "log_error_ratio":
			err = logging.set(value)
		case "latency":
			latency, err = time.ParseDuration(value)
		case "never_ready":
			neverReady, err = strconv.ParseBool(value)
		default:
			err = errors.New("unknown fault")
		}
		if err != nil {
			return fmt.Errorf("%s=%q: %w", name, value, err)
		}
	}
	f.errors, f.logErrors, f.latency, f.neverReady = failing, logging, latency, neverReady
	return nil
}

func faultsFromEnv() (*faults, error) {
	f := &faults{neverReady: os.Getenv("NEVER_READY") != ""}
	values := url.Values{}
	for variable, name := range map[string]string{
		"ERROR_RATIO": "error_ratio", "LOG_ERROR_RATIO": "log_error_ratio", "LATENCY": "latency",
	} {
		if value := os.Getenv(variable); value != "" {
			values.Set(name, value)
		}
	}
	return f, f.set(values)
}

func durationFromEnv(variable string) (time.Duration, error) {
	value := os.Getenv(variable)
	if value == "" {
		return 0, nil
	}
	duration, err := time.ParseDuration(value)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", variable, err)
	}
	return duration, nil
}

func firstOf(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

func serve() error {
	if os.Getenv("CRASH_AT_START") != "" {
		return errors.New("CRASH_AT_START is set")
	}
	fault, err := faultsFromEnv()
	if err != nil {
		return err
	}
	crashAfter, err := durationFromEnv("CRASH_AFTER")
	if err != nil {
		return err
	}
	startDelay, err := durationFromEnv("START_DELAY")
	if err != nil {
		return err
	}
	// IMAGE_TAG is what an image would have built in: `kubectl set image` alone makes another version.
	version := firstOf(os.Getenv("VERSION"), os.Getenv("IMAGE_TAG"), "unversioned")
	readyAt := time.Now().Add(startDelay)
	if crashAfter > 0 {
		time.AfterFunc(crashAfter, func() {
			log.Printf("crashing after %s", crashAfter)
			os.Exit(1)
		})
	}

	address := net.JoinHostPort(os.Getenv("POD_IP"), firstOf(os.Getenv("PORT"), "8080"))
	server := &http.Server{Addr: address, Handler: routes(version, fault, readyAt), ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	drained := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drained <- server.Shutdown(context.Background())
	}()
	log.Printf("version %s on %s", version, address)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}

func routes(version string, fault *faults, readyAt time.Time) http.Handler {
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_requests_total", Help: "Requests answered."}, []string{"code", "method"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_request_duration_seconds", Help: "Time to answer a request.", Buckets: prometheus.DefBuckets,
	}, []string{"code", "method"})
	logged := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "log_messages_total", Help: "Lines logged."}, []string{"level"})
	registry.MustRegister(requests, duration, logged)
	logRequests := os.Getenv("LOG_REQUESTS") != ""
	say := func(level string, r *http.Request) {
		logged.WithLabelValues(level).Inc()
		log.Printf("%s: %s %s", level, r.Method, r.URL.Path)
	}

	work := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail, logError, latency := fault.next()
		if latency > 0 {
			select {
			case <-time.After(latency):
			case <-r.Context().Done(): // the client has given up
			}
		}
		if logRequests {
			say(map[bool]string{false: "info", true: "error"}[fail || logError], r)
		}
		if fail {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintln(w, "failed on purpose")
			return
		}
		fmt.Fprintln(w, "shop", version)
	})
	counted := promhttp.InstrumentHandlerDuration(duration, promhttp.InstrumentHandlerCounter(requests, work))

	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if fault.broken() || time.Now().Before(readyAt) {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /fault", func(w http.ResponseWriter, r *http.Request) {
		if err := fault.set(r.URL.Query()); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		log.Printf("faults changed: %s", r.URL.RawQuery)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-version", version)
		counted.ServeHTTP(w, r)
	})
	return mux
}
