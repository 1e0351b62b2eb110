// Program runner carries out compatibility scenarios with Go's etcd client, clientv3, and its concurrency package.
//
// It reads one request a line from standard input (a scenario's name, the revision it begins at, endpoints and steps) and
// prints one line for each step. tests/scenarios/README.md describes both. It knows nothing of what is right: the test
// that starts it compares what a real etcd and tenured answered.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stepPatience is the longest that one step may take: far more than any needs, so that a hang becomes a failure.
const stepPatience = 30 * time.Second

type request struct {
	Scenario  string   `json:"scenario"`
	Base      int64    `json:"base"`
	Endpoints []string `json:"endpoints"`
	Program   string   `json:"program"`
	Steps     []*step  `json:"steps"`
}

// answer is what a step prints; its fields are sorted when printed.
type answer map[string]any

// skipped is the error of a step that this client cannot express.
type skipped struct{ feature string }

func (s skipped) Error() string { return "skip " + s.feature }

// run is one scenario under way.
type run struct {
	request
	names
	ctx     context.Context
	clients map[string]*clientv3.Client
	watches map[string]*watch
	locks   map[string]*lock
	runs    map[string]*campaign
	views   map[string]*observer
	lookers map[*clientv3.Client]*concurrency.Session
	tasks   map[string]chan outcome
}

type outcome struct {
	answer answer
	err    error
}

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "runner:", err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var one request
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&one); err != nil {
			return err
		}
		one.carryOut(json.NewEncoder(out))
	}
}

func (q request) carryOut(out *json.Encoder) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{
		request: q,
		names:   names{base: q.Base},
		ctx:     ctx,
		clients: map[string]*clientv3.Client{},
		watches: map[string]*watch{},
		locks:   map[string]*lock{},
		runs:    map[string]*campaign{},
		views:   map[string]*observer{},
		lookers: map[*clientv3.Client]*concurrency.Session{},
		tasks:   map[string]chan outcome{},
	}
	defer func() {
		cancel()
		for _, client := range r.clients {
			client.Close()
		}
		out.Encode(answer{"done": q.Scenario})
	}()
	if q.Program != "" {
		r.program(out)
		return
	}
	for at, one := range q.Steps {
		line, goesOn := line(r.perform(one))
		line["step"] = at
		out.Encode(line)
		if !goesOn {
			return
		}
	}
}

// line is what a step prints, and whether the steps after it can be carried out.
func line(given answer, err error) (answer, bool) {
	var skip skipped
	switch {
	case err == nil:
		return answer{"answer": given}, true
	case errors.As(err, &skip):
		return answer{"skip": skip.feature}, true
	case code(err) == codes.Unimplemented.String():
		return answer{"unimplemented": err.Error()}, false
	}
	return answer{"error": answer{"code": code(err), "text": text(err)}}, true
}

// code is the gRPC code of an error, or Client for an error that the client made by itself.
func code(err error) string {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code().String()
	}
	if from, ok := status.FromError(err); ok {
		return from.Code().String()
	}
	return "Client"
}

func text(err error) string {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Error()
	}
	if from, ok := status.FromError(err); ok {
		return from.Message()
	}
	return err.Error()
}

// perform carries a step out, in the background if it asks for that.
func (r *run) perform(s *step) (answer, error) {
	if !s.Background {
		ctx, cancel := context.WithTimeout(r.ctx, stepPatience)
		defer cancel()
		return r.do(ctx, s)
	}
	done := make(chan outcome, 1)
	r.tasks[s.As] = done
	// Made here, before the goroutine: the steps that follow may use the same client.
	if _, err := r.client(s.Session); err != nil {
		return nil, err
	}
	finish, err := r.prepare(s)
	if err != nil {
		return nil, err
	}
	go func() {
		given, err := finish()
		done <- outcome{given, err}
	}()
	return answer{}, nil
}

// prepare does what a background step must have done before the next step, and returns what it waits for.
func (r *run) prepare(s *step) (func() (answer, error), error) {
	ctx := r.ctx
	switch s.Do {
	case "lock":
		one, err := r.newLock(ctx, s)
		if err != nil {
			return nil, err
		}
		return func() (answer, error) { return one.lock(ctx) }, nil
	case "campaign":
		one, err := r.newCampaign(ctx, s)
		if err != nil {
			return nil, err
		}
		return func() (answer, error) { return one.run_(ctx, s.Value) }, nil
	}
	return nil, fmt.Errorf("%s cannot be done in the background", s.Do)
}

func (r *run) do(ctx context.Context, s *step) (answer, error) {
	client, err := r.client(s.Session)
	if err != nil {
		return nil, err
	}
	switch s.Do {
	case "put", "get", "get_stream", "delete", "txn", "compact":
		return r.kv(ctx, client, s)
	case "grant", "keep_alive", "keep_alive_rounds", "time_to_live", "revoke", "leases":
		return r.lease(ctx, client, s)
	case "watch", "events", "progress", "cancel", "watch_end":
		return r.watch(ctx, client, s)
	case "lock", "try_lock", "unlock", "lock_queue", "election_queue":
		return r.lockStep(ctx, client, s)
	case "campaign", "proclaim", "leader", "observe", "observed", "resign":
		return r.election(ctx, client, s)
	case "status", "members", "alarms", "hash_kv", "defragment":
		return r.maintenance(ctx, client, s)
	case "stm":
		return r.stm(ctx, client, s)
	case "pending":
		return answer{"pending": len(r.tasks[s.What]) == 0}, nil
	case "join":
		select {
		case done := <-r.tasks[s.What]:
			return done.answer, done.err
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not end", s.What)
		}
	}
	return nil, fmt.Errorf("the runner does not know the step %q", s.Do)
}

// client is the named session's own client: a talks to the first endpoint, b to the second, all to all of them.
func (r *run) client(session string) (*clientv3.Client, error) {
	if session == "" {
		session = "a"
	}
	if client, ok := r.clients[session]; ok {
		return client, nil
	}
	endpoints := r.Endpoints
	if session != "all" {
		at := int(session[0] - 'a')
		endpoints = endpoints[at%len(endpoints):][:1]
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
	if err == nil {
		r.clients[session] = client
	}
	return client, err
}
