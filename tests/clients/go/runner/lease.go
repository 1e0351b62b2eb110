package main

import (
	"context"
	"fmt"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (r *run) lease(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	if s.Do == "grant" {
		return r.grant(ctx, client, s)
	}
	if s.Do == "leases" {
		return r.leases_(ctx, client)
	}
	id, err := r.id(s.Lease)
	if err != nil {
		return nil, err
	}
	switch s.Do {
	case "keep_alive":
		given, err := client.KeepAliveOnce(ctx, id)
		if err != nil {
			return nil, err
		}
		return answer{"ttl": given.TTL, "revision": r.revision(given.Revision)}, nil
	case "keep_alive_rounds":
		return r.rounds(ctx, client, id, s.Rounds)
	case "time_to_live":
		return r.timeToLive(ctx, client, id, s.Keys)
	}
	given, err := client.Revoke(ctx, id)
	if err != nil {
		return nil, err
	}
	return answer{"revision": r.revision(given.Header.Revision)}, nil
}

func (r *run) grant(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	var id int64
	var ttl, revision int64
	if s.ID == 0 {
		given, err := client.Grant(ctx, s.TTL)
		if err != nil {
			return nil, err
		}
		id, ttl, revision = int64(given.ID), given.TTL, given.Revision
	} else {
		// The client's own Grant lets the server choose the id; its generated stub does not.
		stub := pb.NewLeaseClient(client.ActiveConnection())
		given, err := stub.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: s.TTL, ID: s.ID})
		if err != nil {
			return nil, rpctypes.Error(err)
		}
		id, ttl, revision = given.ID, given.TTL, given.Header.Revision
	}
	r.learn(s.As, clientv3.LeaseID(id))
	return answer{"lease": r.leaseName(id), "ttl": ttl, "revision": r.revision(revision)}, nil
}

// rounds starts the client's own keeping alive, which goes on until the scenario ends, and waits for some of its answers.
func (r *run) rounds(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID, wanted int) (answer, error) {
	answers, err := client.KeepAlive(r.ctx, id)
	if err != nil {
		return nil, err
	}
	var last *clientv3.LeaseKeepAliveResponse
	for range wanted {
		select {
		case given, ok := <-answers:
			if !ok {
				return nil, fmt.Errorf("keeping alive ended")
			}
			last = given
		case <-ctx.Done():
			return nil, fmt.Errorf("keeping alive hangs")
		}
	}
	go func() {
		for range answers {
			// The client wants them taken.
		}
	}()
	return answer{"ttl": last.TTL}, nil
}

func (r *run) timeToLive(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID, keys bool) (answer, error) {
	var options []clientv3.LeaseOption
	if keys {
		options = append(options, clientv3.WithAttachedKeys())
	}
	given, err := client.TimeToLive(ctx, id, options...)
	if err != nil {
		return nil, err
	}
	shown := []string{}
	for _, key := range given.Keys {
		shown = append(shown, r.text(key))
	}
	sort.Strings(shown)
	return answer{"ttl": remaining(given.TTL), "granted": given.GrantedTTL, "keys": shown}, nil
}

// remaining hides how many seconds are left: that depends on when one asks.
func remaining(ttl int64) any {
	if ttl > 0 {
		return "alive"
	}
	return ttl
}

func (r *run) leases_(ctx context.Context, client *clientv3.Client) (answer, error) {
	given, err := client.Leases(ctx)
	if err != nil {
		return nil, err
	}
	shown := []string{}
	for _, one := range given.Leases {
		shown = append(shown, fmt.Sprint(r.leaseName(int64(one.ID))))
	}
	sort.Strings(shown)
	return answer{"leases": shown}, nil
}
