package main

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watch is a watch with what came from it and was not asked for yet.
type watch struct {
	channel clientv3.WatchChan
	cancel  context.CancelFunc
	events  []*clientv3.Event
	noted   []int64
	ended   *clientv3.WatchResponse
}

func (r *run) watch(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	if s.Do == "watch" {
		return r.newWatch(ctx, client, s)
	}
	one, ok := r.watches[s.Watch]
	if !ok {
		return nil, fmt.Errorf("no watch is named %q", s.Watch)
	}
	switch s.Do {
	case "events":
		err := one.until(ctx, func() bool { return len(one.events) >= s.Count })
		if err != nil {
			return nil, fmt.Errorf("%w after %v", err, r.events(one.events))
		}
		taken := one.events[:s.Count]
		one.events = one.events[s.Count:]
		return answer{"events": r.events(taken)}, nil
	case "progress":
		if err := client.RequestProgress(r.ctx); err != nil {
			return nil, err
		}
		if err := one.until(ctx, func() bool { return len(one.noted) > 0 }); err != nil {
			return nil, err
		}
		revision := one.noted[0]
		one.noted = nil
		return answer{"revision": r.revision(revision)}, nil
	case "cancel":
		one.cancel()
		for response := range one.channel {
			one.take(response)
		}
		return answer{"left": r.events(one.events)}, nil
	}
	if err := one.until(ctx, func() bool { return one.ended != nil }); err != nil {
		return nil, err
	}
	return answer{
		"compact_revision": r.revision(one.ended.CompactRevision),
		"error":            one.ended.Err().Error(),
		"left":             r.events(one.events),
	}, nil
}

func (r *run) newWatch(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	options := append(rangeOptions(s), clientv3.WithCreatedNotify())
	add := func(wanted bool, option func() clientv3.OpOption) {
		if wanted {
			options = append(options, option())
		}
	}
	revision := s.Revision.at(r.base)
	add(revision != 0, func() clientv3.OpOption { return clientv3.WithRev(revision) })
	add(s.PrevKv, clientv3.WithPrevKV)
	add(s.Progress, clientv3.WithProgressNotify)
	add(s.Fragment, clientv3.WithFragment)
	for _, filter := range s.Filters {
		add(filter == "noput", clientv3.WithFilterPut)
		add(filter == "nodelete", clientv3.WithFilterDelete)
	}
	watching, cancel := context.WithCancel(r.ctx)
	one := &watch{channel: client.Watch(watching, string(s.Key), options...), cancel: cancel}
	select {
	case first := <-one.channel:
		if err := first.Err(); err != nil {
			cancel()
			return nil, err
		}
		if !first.Created {
			one.take(first)
		}
	case <-ctx.Done():
		cancel()
		return nil, errors.New("the watch is not created")
	}
	r.watches[s.As] = one
	return answer{}, nil
}

func (w *watch) until(ctx context.Context, enough func() bool) error {
	for !enough() {
		select {
		case response, ok := <-w.channel:
			if !ok {
				return errors.New("the watch ended")
			}
			w.take(response)
		case <-ctx.Done():
			return errors.New("the watch is silent")
		}
	}
	return nil
}

func (w *watch) take(response clientv3.WatchResponse) {
	switch {
	case response.Err() != nil:
		w.ended = &response
	case response.IsProgressNotify():
		w.noted = append(w.noted, response.Header.Revision)
	default:
		w.events = append(w.events, response.Events...)
	}
}

func (r *run) events(given []*clientv3.Event) []any {
	shown := []any{}
	for _, one := range given {
		kind := "put"
		if one.Type == mvccpb.Event_DELETE {
			kind = "delete"
		}
		shown = append(shown, answer{"type": kind, "kv": r.names.kv(one.Kv), "prev_kv": r.names.kv(one.PrevKv)})
	}
	return shown
}
