package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// programs are scenarios that steps cannot tell: what they print is compared like steps.
var programs = map[string]func(*run, context.Context, func(answer)) error{
	"mutex":      (*run).mutexProgram,
	"session":    (*run).sessionProgram,
	"election":   (*run).electionProgram,
	"stm":        (*run).stmProgram,
	"decorators": (*run).decoratorsProgram,
	"mirror":     (*run).mirrorProgram,
	"kubernetes": (*run).kubernetesProgram,
	"naming":     (*run).namingProgram,
}

// programPatience bounds a whole program.
const programPatience = 60 * time.Second

func (r *run) program(out *json.Encoder) {
	ctx, cancel := context.WithTimeout(r.ctx, programPatience)
	defer cancel()
	at := 0
	say := func(given answer) {
		out.Encode(answer{"step": at, "answer": given})
		at++
	}
	err := fmt.Errorf("there is no program %q", r.Program)
	if program, ok := programs[r.Program]; ok {
		err = program(r, ctx, say)
	}
	if err != nil {
		given, _ := line(nil, err)
		given["step"] = at
		out.Encode(given)
	}
}

// mutexProgram: contenders of two clients guard a counter that each reads, then writes; no step of it may be lost. Then
// the order of waiters, and what a mutex says to whoever misuses it.
func (r *run) mutexProgram(ctx context.Context, say func(answer)) error {
	const contenders, turns = 6, 8
	errs := make([]error, contenders)
	var group sync.WaitGroup
	for at := range contenders {
		session, err := r.newSession(ctx, &step{Session: string(rune('a' + at%2)), As: fmt.Sprint("s", at), TTL: 60})
		if err != nil {
			return err
		}
		group.Go(func() { errs[at] = count(ctx, session, turns) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	client, err := r.client("a")
	if err != nil {
		return err
	}
	given, err := client.Get(ctx, "mutex/counter")
	if err != nil {
		return err
	}
	say(answer{"counted": string(given.Kvs[0].Value), "version": given.Kvs[0].Version})
	if err := r.mutexOrder(ctx, client, say); err != nil {
		return err
	}
	return r.mutexMisuse(ctx, client, say)
}

func count(ctx context.Context, session *concurrency.Session, turns int) error {
	client := session.Client()
	for range turns {
		mutex := concurrency.NewMutex(session, "mutex/guard")
		if err := mutex.Lock(ctx); err != nil {
			return err
		}
		given, err := client.Get(ctx, "mutex/counter")
		if err != nil {
			return err
		}
		number := 0
		if len(given.Kvs) > 0 {
			if number, err = strconv.Atoi(string(given.Kvs[0].Value)); err != nil {
				return err
			}
		}
		// The write is guarded too: it counts only while the mutex is held.
		put := clientv3.OpPut("mutex/counter", strconv.Itoa(number+1))
		done, err := client.Txn(ctx).If(mutex.IsOwner()).Then(put).Commit()
		if err != nil {
			return err
		}
		if !done.Succeeded {
			return errors.New("the mutex was lost while it was held")
		}
		if err := mutex.Unlock(ctx); err != nil {
			return err
		}
	}
	return nil
}

// mutexOrder: who queued first is served first.
func (r *run) mutexOrder(ctx context.Context, client *clientv3.Client, say func(answer)) error {
	const waiters = 5
	served := make(chan int, waiters)
	errs := make(chan error, waiters)
	for at := range waiters {
		session, err := r.newSession(ctx, &step{Session: string(rune('a' + at%2)), As: fmt.Sprint("w", at), TTL: 60})
		if err != nil {
			return err
		}
		mutex := concurrency.NewMutex(session, "mutex/queue")
		go func() {
			err := mutex.Lock(ctx)
			served <- at
			errs <- err
			// The first holds on until all are queued, and gives way last of all to do so.
			if err == nil && at > 0 {
				mutex.Unlock(ctx)
			}
		}()
		if _, err := r.await(ctx, client, &step{Key: "mutex/queue/", Count: at + 1}); err != nil {
			return err
		}
	}
	first := <-served
	if err := <-errs; err != nil {
		return err
	}
	say(answer{"first": first, "others are served": len(served)})
	given, err := client.Get(ctx, "mutex/queue/", clientv3.WithFirstCreate()...)
	if err != nil {
		return err
	}
	if _, err := client.Delete(ctx, string(given.Kvs[0].Key)); err != nil {
		return err
	}
	order := []int{}
	for range waiters - 1 {
		order = append(order, <-served)
		if err := <-errs; err != nil {
			return err
		}
	}
	say(answer{"then": order})
	return nil
}

func (r *run) mutexMisuse(ctx context.Context, client *clientv3.Client, say func(answer)) error {
	one, err := r.newSession(ctx, &step{As: "one", TTL: 60})
	if err != nil {
		return err
	}
	other, err := r.newSession(ctx, &step{Session: "b", As: "other", TTL: 3})
	if err != nil {
		return err
	}
	holder, rival := concurrency.NewMutex(one, "mutex/misuse"), concurrency.NewMutex(other, "mutex/misuse")
	say(answer{"unlock before lock": fmt.Sprint(holder.Unlock(ctx))})
	say(answer{"lock": fmt.Sprint(holder.Lock(ctx)), "key": r.text([]byte(holder.Key()))})
	say(answer{"lock again in the same session": fmt.Sprint(holder.Lock(ctx))})
	say(answer{"try_lock of another": fmt.Sprint(rival.TryLock(ctx))})
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	err = rival.Lock(brief)
	cancel()
	say(answer{"lock with a deadline": fmt.Sprint(err)})
	given, err := client.Get(ctx, "mutex/misuse/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	say(answer{"keys after that": len(given.Kvs)})
	waiting := make(chan error, 1)
	go func() { waiting <- rival.Lock(ctx) }()
	if _, err := r.await(ctx, client, &step{Key: "mutex/misuse/", Count: 2}); err != nil {
		return err
	}
	if _, err := client.Revoke(ctx, other.Lease()); err != nil {
		return err
	}
	// A waiter whose lease ends learns of it when its turn comes.
	say(answer{"unlock": fmt.Sprint(holder.Unlock(ctx))})
	say(answer{"the waiter without a lease": fmt.Sprint(<-waiting)})
	<-other.Done()
	say(answer{"unlock again": fmt.Sprint(holder.Unlock(ctx))})
	return nil
}

// sessionProgram: a session keeps its lease past its TTL, ends with it, and leaves it alone when it is orphaned.
func (r *run) sessionProgram(ctx context.Context, say func(answer)) error {
	client, err := r.client("a")
	if err != nil {
		return err
	}
	session, err := r.newSession(ctx, &step{As: "kept", TTL: 2})
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, "session/key", "v", clientv3.WithLease(session.Lease())); err != nil {
		return err
	}
	// Time itself is what is tested here: two TTLs in which the session alone renews.
	select {
	case <-session.Done():
		return errors.New("the session ended")
	case <-time.After(4 * time.Second):
	}
	given, err := client.Get(ctx, "session/key")
	if err != nil {
		return err
	}
	say(answer{"kept": r.kvs(given.Kvs)})
	session.Orphan()
	watching := client.Watch(ctx, "session/key", clientv3.WithRev(r.base+2))
	for response := range watching {
		if err := response.Err(); err != nil {
			return err
		}
		if len(response.Events) > 0 {
			say(answer{"after it was orphaned": r.events(response.Events)})
			break
		}
	}
	ended, err := r.newSession(ctx, &step{As: "ended", TTL: 60})
	if err != nil {
		return err
	}
	if _, err := client.Revoke(ctx, ended.Lease()); err != nil {
		return err
	}
	select {
	case <-ended.Done():
		say(answer{"done after the lease was revoked": true})
	case <-ctx.Done():
		return errors.New("the session does not notice that its lease is gone")
	}
	say(answer{"close": fmt.Sprint(ended.Close())})
	lease, err := client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	lent, err := concurrency.NewSession(client, concurrency.WithLease(lease.ID))
	if err != nil {
		return err
	}
	say(answer{"lent": lent.Lease() == lease.ID, "close": fmt.Sprint(lent.Close())})
	left, err := client.TimeToLive(ctx, lease.ID)
	if err != nil {
		return err
	}
	say(answer{"a closed session's lease": left.TTL})
	return nil
}

// electionProgram: leadership goes round among candidates of two clients, in the order in which they came.
func (r *run) electionProgram(ctx context.Context, say func(answer)) error {
	const candidates = 4
	client, err := r.client("a")
	if err != nil {
		return err
	}
	type elected struct {
		at  int
		err error
	}
	won := make(chan elected, candidates)
	elections := make([]*concurrency.Election, candidates)
	for at := range candidates {
		session, err := r.newSession(ctx, &step{Session: string(rune('a' + at%2)), As: fmt.Sprint("c", at), TTL: 60})
		if err != nil {
			return err
		}
		elections[at] = concurrency.NewElection(session, "election/x")
		go func() { won <- elected{at, elections[at].Campaign(ctx, fmt.Sprint("candidate ", at))} }()
		if _, err := r.await(ctx, client, &step{Key: "election/x/", Count: at + 1}); err != nil {
			return err
		}
	}
	session, err := r.newSession(ctx, &step{Session: "b", As: "looker", TTL: 60})
	if err != nil {
		return err
	}
	view := concurrency.NewElection(session, "election/x")
	observed := view.Observe(ctx)
	for range candidates {
		winner := <-won
		if winner.err != nil {
			return winner.err
		}
		election := elections[winner.at]
		if err := election.Proclaim(ctx, fmt.Sprint("leader ", winner.at)); err != nil {
			return err
		}
		seen := ""
		for seen != fmt.Sprint("leader ", winner.at) {
			given, ok := <-observed
			if !ok {
				return errors.New("observing ended")
			}
			seen = string(given.Kvs[0].Value)
		}
		given, err := view.Leader(ctx)
		if err != nil {
			return err
		}
		say(answer{"winner": winner.at, "observed": seen, "leader": r.names.kv(given.Kvs[0])})
		if err := election.Resign(ctx); err != nil {
			return err
		}
		say(answer{"proclaim after resigning": fmt.Sprint(election.Proclaim(ctx, "again"))})
	}
	_, err = view.Leader(ctx)
	say(answer{"leader of nobody": fmt.Sprint(err)})
	return nil
}
