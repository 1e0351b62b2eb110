package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// stmProgram: the isolation levels on one history, and a transaction that changes its mind.
func (r *run) stmProgram(ctx context.Context, say func(answer)) error {
	client, err := r.client("a")
	if err != nil {
		return err
	}
	for _, key := range []string{"stm/x", "stm/y"} {
		if _, err := client.Put(ctx, key, "0"); err != nil {
			return err
		}
	}
	levels := []concurrency.Isolation{
		concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads, concurrency.ReadCommitted,
	}
	for _, level := range levels {
		tries := 0
		_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
			tries++
			before := stm.Get("stm/x")
			if tries == 1 {
				// Somebody else writes between this transaction's reads.
				if _, err := client.Put(ctx, "stm/x", before+"!"); err != nil {
					return err
				}
			}
			stm.Put("stm/y", before+stm.Get("stm/x"))
			return nil
		}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
		if err != nil {
			return err
		}
		given, err := client.Get(ctx, "stm/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		say(answer{"level": int(level), "tries": tries, "kvs": r.kvs(given.Kvs)})
	}
	_, err = concurrency.NewSTM(client, func(stm concurrency.STM) error {
		stm.Del("stm/x")
		return errors.New("changed its mind")
	})
	say(answer{"aborted": fmt.Sprint(err)})
	response, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
		stm.Del("stm/x")
		stm.Put("stm/new", stm.Get("stm/absent")+fmt.Sprint(stm.Rev("stm/absent")))
		return nil
	}, concurrency.WithPrefetch("stm/absent"))
	if err != nil {
		return err
	}
	say(answer{"revision": r.revision(response.Header.Revision), "succeeded": response.Succeeded})
	given, err := client.Get(ctx, "stm/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	say(answer{"left": r.kvs(given.Kvs)})
	return nil
}

// decoratorsProgram: what clientv3 puts around its own KV and Watch — namespaces, ordering, and caches held by leases.
func (r *run) decoratorsProgram(ctx context.Context, say func(answer)) error {
	client, err := r.client("a")
	if err != nil {
		return err
	}
	inner := namespace.NewKV(client.KV, "tenant/")
	watching := namespace.NewWatcher(client.Watcher, "tenant/").Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(r.base+1))
	if _, err := inner.Put(ctx, "k", "v"); err != nil {
		return err
	}
	within, err := inner.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	whole, err := client.Get(ctx, "tenant/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	event := <-watching
	say(answer{"within": r.kvs(within.Kvs), "whole": r.kvs(whole.Kvs), "watched": r.events(event.Events)})
	ordered := ordering.NewKV(client.KV, ordering.NewOrderViolationSwitchEndpointClosure(client))
	for at := range 5 {
		if _, err := ordered.Put(ctx, "ordered", strconv.Itoa(at)); err != nil {
			return err
		}
		given, err := ordered.Get(ctx, "ordered", clientv3.WithSerializable())
		if err != nil {
			return err
		}
		say(answer{"ordered": r.kvs(given.Kvs)})
	}
	return r.leasingProgram(ctx, client, say)
}

func (r *run) leasingProgram(ctx context.Context, client *clientv3.Client, say func(answer)) error {
	other, err := r.client("b")
	if err != nil {
		return err
	}
	cached, closeCached, err := leasing.NewKV(client, "leasing/")
	if err != nil {
		return err
	}
	defer closeCached()
	rival, closeRival, err := leasing.NewKV(other, "leasing/")
	if err != nil {
		return err
	}
	defer closeRival()
	for at, writer := range []clientv3.KV{cached, rival, cached, rival} {
		if _, err := writer.Put(ctx, "cached", strconv.Itoa(at)); err != nil {
			return err
		}
		mine, err := cached.Get(ctx, "cached")
		if err != nil {
			return err
		}
		theirs, err := rival.Get(ctx, "cached")
		if err != nil {
			return err
		}
		say(answer{"mine": string(mine.Kvs[0].Value), "theirs": string(theirs.Kvs[0].Value)})
	}
	return nil
}

// mirrorProgram: a copy of a prefix, made of a snapshot and of what changed since.
func (r *run) mirrorProgram(ctx context.Context, say func(answer)) error {
	client, err := r.client("a")
	if err != nil {
		return err
	}
	// More than one page of the syncer's base, which has a thousand keys.
	for from := 0; from < 1200; from += 100 {
		ops := []clientv3.Op{}
		for at := from; at < from+100; at++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("mirror/%04d", at), strconv.Itoa(at)))
		}
		if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return err
		}
	}
	syncer := mirror.NewSyncer(client, "mirror/", 0)
	pages, errs := syncer.SyncBase(ctx)
	copied := map[string]string{}
	for page := range pages {
		for _, one := range page.Kvs {
			copied[string(one.Key)] = string(one.Value)
		}
	}
	if err := <-errs; err != nil {
		return err
	}
	say(answer{"copied": len(copied)})
	if _, err := client.Delete(ctx, "mirror/1", clientv3.WithPrefix()); err != nil {
		return err
	}
	last, err := client.Put(ctx, "mirror/last", "x")
	if err != nil {
		return err
	}
	for response := range syncer.SyncUpdates(ctx) {
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			if event.Type == clientv3.EventTypeDelete {
				delete(copied, string(event.Kv.Key))
			} else {
				copied[string(event.Kv.Key)] = string(event.Kv.Value)
			}
		}
		if response.Header.Revision >= last.Header.Revision && copied["mirror/last"] != "" {
			break
		}
	}
	keys := []string{}
	for key := range copied {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	say(answer{"after the updates": len(keys), "first": keys[0], "last": keys[len(keys)-1]})
	return nil
}
