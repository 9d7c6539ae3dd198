package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// none stands for the version of an answer that names none, and of no answer.
const none = "none"

// counts is what one second, or the whole run, saw. sent, ok and failed are of requests that have ended.
type counts struct {
	T               int64          `json:"t"`
	Sent            int            `json:"sent"`
	OK              int            `json:"ok"`
	Failed          int            `json:"failed"`
	ByVersion       map[string]int `json:"by_version"`
	FailedByVersion map[string]int `json:"failed_by_version"`
	Codes           map[string]int `json:"codes"`
	P50             float64        `json:"p50_ms"`
	P99             float64        `json:"p99_ms"`
	latencies       histogram
}

type summary struct {
	counts
	First map[string]int64 `json:"first_ms"` // version -> moment at which the first request that it answered was sent
	Last  map[string]int64 `json:"last_ms"`
}

func newCounts() counts {
	return counts{ByVersion: map[string]int{}, FailedByVersion: map[string]int{}, Codes: map[string]int{}}
}

func (c *counts) add(version, code string, failed bool, latency time.Duration) {
	c.Sent++
	c.ByVersion[version]++
	c.Codes[code]++
	if failed {
		c.Failed++
		c.FailedByVersion[version]++
	} else {
		c.OK++
	}
	c.latencies.add(latency)
}

func (c *counts) close(at time.Time) {
	c.T = at.UnixMilli()
	c.P50, c.P99 = c.latencies.quantile(0.50), c.latencies.quantile(0.99)
}

// histogram counts latencies in buckets 2 % apart, so that a run of any length needs the same memory.
type histogram struct {
	buckets map[int]int
	total   int
}

const growth = 1.02

func (h *histogram) add(latency time.Duration) {
	if h.buckets == nil {
		h.buckets = map[int]int{}
	}
	h.buckets[int(math.Ceil(math.Log(max(1, float64(latency.Microseconds())))/math.Log(growth)))]++
	h.total++
}

// quantile gives milliseconds, 0 when nothing was counted.
func (h *histogram) quantile(q float64) float64 {
	keys := make([]int, 0, len(h.buckets))
	for key := range h.buckets {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	rank := int(math.Ceil(q * float64(h.total)))
	for _, key := range keys {
		if rank -= h.buckets[key]; rank <= 0 {
			return math.Round(math.Pow(growth, float64(key))) / 1000
		}
	}
	return 0
}

type recorder struct {
	mu     sync.Mutex
	second counts
	all    summary
	out    *json.Encoder
}

func (r *recorder) record(sentAt time.Time, version, code string, failed bool, latency time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.second.add(version, code, failed, latency)
	r.all.add(version, code, failed, latency)
	at := sentAt.UnixMilli()
	if first, seen := r.all.First[version]; !seen || at < first {
		r.all.First[version] = at
	}
	r.all.Last[version] = max(r.all.Last[version], at)
}

func (r *recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.second.close(time.Now())
	err := r.out.Encode(r.second)
	r.second = newCounts()
	return err
}

func (r *recorder) finish() error {
	if err := r.flush(); err != nil {
		return err
	}
	r.all.close(time.Now())
	return r.out.Encode(map[string]summary{"summary": r.all})
}

// load sends requests at a constant rate, however slow the answers are, until the duration is over, a signal comes or,
// with --until-eof, stdin closes. The requests under way are waited for and counted.
func load(args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	target := flags.String("url", "", "where to send GET requests")
	host := flags.String("host", "", "Host header; the URL's when empty")
	rps := flags.Float64("rps", 100, "requests per second")
	duration := flags.Duration("duration", 0, "how long; 0 is until a signal or EOF")
	timeout := flags.Duration("timeout", 2*time.Second, "a request that takes longer has failed")
	untilEOF := flags.Bool("until-eof", false, "end when stdin closes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *target == "" || *rps <= 0 || *timeout <= 0 {
		return errors.New("load needs --url, and --rps and --timeout above 0")
	}
	request, err := http.NewRequest(http.MethodGet, *target, nil)
	if err != nil {
		return err
	}
	request.Host = *host

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *duration > 0 {
		ctx, stop = context.WithTimeout(ctx, *duration)
		defer stop()
	}
	if *untilEOF {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}

	// Every request ends within the time-out, so more than rate × time-out are never under way in earnest.
	inFlight := int(math.Ceil(*rps*timeout.Seconds()*1.5)) + 64
	client := &http.Client{
		Timeout:       *timeout,
		Transport:     &http.Transport{MaxIdleConnsPerHost: inFlight, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	records := &recorder{second: newCounts(), out: json.NewEncoder(os.Stdout),
		all: summary{counts: newCounts(), First: map[string]int64{}, Last: map[string]int64{}}}
	reported := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-finished:
				reported <- records.finish()
				return
			case <-ticker.C:
				if err := records.flush(); err != nil { // whoever read the lines is gone
					stop()
				}
			}
		}
	}()

	slots := make(chan struct{}, inFlight)
	var under sync.WaitGroup
	started := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := started.Add(time.Duration(float64(n) / *rps * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case slots <- struct{}{}:
			under.Go(func() {
				defer func() { <-slots }()
				sentAt := time.Now()
				version, code, failed := get(client, request)
				records.record(sentAt, version, code, failed, time.Since(due)) // a late start counts as latency
			})
		default:
			records.record(time.Now(), none, "overload", true, 0)
		}
	}
	under.Wait()
	close(finished)
	return <-reported
}

// get sends one request and gives the version that answered, the code (or the kind of error) and whether it failed.
func get(client *http.Client, request *http.Request) (version, code string, failed bool) {
	response, err := client.Do(request.Clone(context.Background()))
	if err == nil {
		defer response.Body.Close()
		if version = response.Header.Get("x-version"); version == "" {
			version = none
		}
		_, err = io.Copy(io.Discard, response.Body)
	} else {
		version = none
	}
	var netErr net.Error
	var opErr *net.OpError
	switch {
	case err == nil:
		return version, strconv.Itoa(response.StatusCode), response.StatusCode >= 400
	case errors.As(err, &netErr) && netErr.Timeout():
		return version, "timeout", true
	case errors.As(err, &opErr) && opErr.Op == "dial":
		return version, "connect", true
	default:
		return version, "broken", true
	}
}
