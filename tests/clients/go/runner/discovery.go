package main

import (
	"context"
	"errors"
	"fmt"
	"sort"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.uber.org/zap"
)

// kubernetesProgram: what an API server asks of etcd, by the client that it uses.
func (r *run) kubernetesProgram(ctx context.Context, say func(answer)) error {
	client, err := kubernetes.New(clientv3.Config{Endpoints: r.Endpoints, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	if err := r.objects(ctx, client, say); err != nil {
		return err
	}
	if err := r.pages(ctx, client, say); err != nil {
		return err
	}
	return r.cacheAndCompaction(ctx, client, say)
}

// objects are created, updated and deleted, each time only if nobody else did it first.
func (r *run) objects(ctx context.Context, client *kubernetes.Client, say func(answer)) error {
	const key = "/registry/pods/default/a"
	put := func(what string, value string, expected int64, options kubernetes.PutOptions) (kubernetes.PutResponse, error) {
		given, err := client.OptimisticPut(ctx, key, []byte(value), expected, options)
		if err == nil {
			say(answer{what: given.Succeeded, "revision": r.revision(given.Revision), "kv": r.names.kv(given.KV)})
		}
		return given, err
	}
	created, err := put("created", "1", 0, kubernetes.PutOptions{})
	if err != nil {
		return err
	}
	if _, err := put("created twice", "x", 0, kubernetes.PutOptions{GetOnFailure: true}); err != nil {
		return err
	}
	updated, err := put("updated", "2", created.Revision, kubernetes.PutOptions{})
	if err != nil {
		return err
	}
	if _, err := put("updated from stale", "x", created.Revision, kubernetes.PutOptions{GetOnFailure: true}); err != nil {
		return err
	}
	for _, expected := range []int64{created.Revision, updated.Revision, updated.Revision} {
		given, err := client.OptimisticDelete(ctx, key, expected, kubernetes.DeleteOptions{GetOnFailure: true})
		if err != nil {
			return err
		}
		say(answer{"deleted": given.Succeeded, "revision": r.revision(given.Revision), "kv": r.names.kv(given.KV)})
	}
	// Events live on leases that many of them share.
	lease, err := client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	r.learn("events", lease.ID)
	if _, err := put("event", "e", 0, kubernetes.PutOptions{LeaseID: lease.ID}); err != nil {
		return err
	}
	given, err := client.Kubernetes.Get(ctx, key, kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	say(answer{"got": r.names.kv(given.KV), "revision": r.revision(given.Revision)})
	past, err := client.Kubernetes.Get(ctx, key, kubernetes.GetOptions{Revision: created.Revision})
	if err != nil {
		return err
	}
	say(answer{"got of the past": r.names.kv(past.KV), "revision": r.revision(past.Revision)})
	return nil
}

// pages of one revision, while more is written.
func (r *run) pages(ctx context.Context, client *kubernetes.Client, say func(answer)) error {
	const prefix = "/registry/services/"
	for at := range 7 {
		if _, err := client.OptimisticPut(ctx, fmt.Sprint(prefix, at), []byte("v"), 0, kubernetes.PutOptions{}); err != nil {
			return err
		}
	}
	options := kubernetes.ListOptions{Limit: 3}
	for page := range 3 {
		given, err := client.List(ctx, prefix, options)
		if err != nil {
			return err
		}
		say(answer{"page": page, "count": given.Count, "kvs": r.kvs(given.Kvs), "revision": r.revision(given.Revision)})
		if page == 0 {
			options.Revision = given.Revision
		}
		options.Continue = string(given.Kvs[len(given.Kvs)-1].Key) + "\x00"
		added := fmt.Sprint(prefix, "added ", page)
		if _, err := client.OptimisticPut(ctx, added, []byte("v"), 0, kubernetes.PutOptions{}); err != nil {
			return err
		}
	}
	count, err := client.Count(ctx, prefix, kubernetes.CountOptions{})
	if err != nil {
		return err
	}
	say(answer{"count": count})
	return nil
}

// cacheAndCompaction: a watch that begins where a list ended, told of progress; then compaction as servers take turns at it.
func (r *run) cacheAndCompaction(ctx context.Context, client *kubernetes.Client, say func(answer)) error {
	const prefix = "/registry/services/"
	listed, err := client.List(ctx, prefix, kubernetes.ListOptions{})
	if err != nil {
		return err
	}
	watching := client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(),
		clientv3.WithProgressNotify(), clientv3.WithRev(listed.Revision+1))
	if _, err := client.OptimisticPut(ctx, prefix+"0", []byte("w"), listed.Kvs[0].ModRevision, kubernetes.PutOptions{}); err != nil {
		return err
	}
	last, err := client.OptimisticDelete(ctx, prefix+"1", listed.Kvs[1].ModRevision, kubernetes.DeleteOptions{})
	if err != nil {
		return err
	}
	seen := []*clientv3.Event{}
	for len(seen) < 2 {
		response, ok := <-watching
		if !ok || response.Err() != nil {
			return errors.Join(errors.New("the watch ended"), response.Err())
		}
		seen = append(seen, response.Events...)
	}
	say(answer{"watched": r.events(seen)})
	// Asked again and again, as an API server does, until the answer comes.
	for told := false; !told; {
		if err := client.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
			return err
		}
		response, ok := <-watching
		if !ok || response.Err() != nil {
			return errors.Join(errors.New("the watch ended"), response.Err())
		}
		told = response.IsProgressNotify() && response.Header.Revision >= last.Revision
	}
	say(answer{"progress": true})
	for turn, version := range []int64{0, 0, 1} {
		given, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version)).
			Then(clientv3.OpPut("compact_rev_key", fmt.Sprint(turn))).
			Else(clientv3.OpGet("compact_rev_key")).Commit()
		if err != nil {
			return err
		}
		say(answer{"turn": turn, "mine": given.Succeeded})
	}
	if _, err := client.Compact(ctx, listed.Revision); err != nil {
		return err
	}
	_, err = client.List(ctx, prefix, kubernetes.ListOptions{Revision: listed.Revision - 1})
	say(answer{"list of the past": fmt.Sprint(err)})
	_, err = client.List(ctx, prefix, kubernetes.ListOptions{Revision: listed.Revision + 1000})
	say(answer{"list of the future": fmt.Sprint(err)})
	return nil
}

// namingProgram: endpoints of a service, two of them on a lease.
func (r *run) namingProgram(ctx context.Context, say func(answer)) error {
	client, err := r.client("a")
	if err != nil {
		return err
	}
	other, err := r.client("b")
	if err != nil {
		return err
	}
	manager, err := endpoints.NewManager(client, "service")
	if err != nil {
		return err
	}
	view, err := endpoints.NewManager(other, "service")
	if err != nil {
		return err
	}
	lease, err := client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	if err := manager.AddEndpoint(ctx, "service/1", endpoints.Endpoint{Addr: "10.0.0.1:80"}); err != nil {
		return err
	}
	updates, err := view.NewWatchChannel(ctx)
	if err != nil {
		return err
	}
	for at := 2; at <= 3; at++ {
		endpoint := endpoints.Endpoint{Addr: fmt.Sprintf("10.0.0.%d:80", at), Metadata: "on a lease"}
		if err := manager.AddEndpoint(ctx, fmt.Sprint("service/", at), endpoint, clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	// The manager lists without asking the leader, so only the member that took the writes is sure to have them.
	listed, err := manager.List(ctx)
	if err != nil {
		return err
	}
	addresses := []string{}
	for key, endpoint := range listed {
		addresses = append(addresses, fmt.Sprint(key, " at ", endpoint.Addr, " ", endpoint.Metadata))
	}
	sort.Strings(addresses)
	say(answer{"listed": addresses})
	if err := manager.DeleteEndpoint(ctx, "service/1"); err != nil {
		return err
	}
	if _, err := client.Revoke(ctx, lease.ID); err != nil {
		return err
	}
	seen := []string{}
	for len(seen) < 6 {
		batch, ok := <-updates
		if !ok {
			return errors.New("the watch of the service ended")
		}
		for _, update := range batch {
			seen = append(seen, fmt.Sprint(update.Op, " ", update.Key, " ", update.Endpoint.Addr))
		}
	}
	say(answer{"updates": seen})
	return nil
}
