package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// lock is a mutex of the concurrency package, with a session of its own.
type lock struct {
	run     *run
	session *concurrency.Session
	mutex   *concurrency.Mutex
}

type campaign struct {
	run      *run
	session  *concurrency.Session
	election *concurrency.Election
}

type observer struct {
	values <-chan *clientv3.GetResponse
}

// newSession is a session whose lease bears the step's name.
func (r *run) newSession(ctx context.Context, s *step) (*concurrency.Session, error) {
	client, err := r.client(s.Session)
	if err != nil {
		return nil, err
	}
	session, err := concurrency.NewSession(client, concurrency.WithTTL(int(s.TTL)), concurrency.WithContext(r.ctx))
	if err != nil {
		return nil, err
	}
	r.learn(s.As, session.Lease())
	return session, nil
}

func (r *run) newLock(ctx context.Context, s *step) (*lock, error) {
	session, err := r.newSession(ctx, s)
	if err != nil {
		return nil, err
	}
	one := &lock{r, session, concurrency.NewMutex(session, s.Name)}
	r.locks[s.As] = one
	return one, nil
}

func (l *lock) lock(ctx context.Context) (answer, error) {
	if err := l.mutex.Lock(ctx); err != nil {
		return nil, err
	}
	return answer{"key": l.run.text([]byte(l.mutex.Key()))}, nil
}

func (r *run) lockStep(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	switch s.Do {
	case "lock", "try_lock":
		one, err := r.newLock(ctx, s)
		if err != nil {
			return nil, err
		}
		if s.Do == "lock" {
			return one.lock(ctx)
		}
		err = one.mutex.TryLock(ctx)
		if err != nil && !errors.Is(err, concurrency.ErrLocked) {
			return nil, err
		}
		return answer{"locked": err == nil}, nil
	case "lock_queue", "election_queue":
		return r.await(ctx, client, &step{Key: data(s.Name + "/"), Count: s.Count})
	}
	one, ok := r.locks[s.Lock]
	if !ok {
		return nil, fmt.Errorf("no lock is named %q", s.Lock)
	}
	return answer{}, one.mutex.Unlock(ctx)
}

func (r *run) newCampaign(ctx context.Context, s *step) (*campaign, error) {
	session, err := r.newSession(ctx, s)
	if err != nil {
		return nil, err
	}
	one := &campaign{r, session, concurrency.NewElection(session, s.Name)}
	r.runs[s.As] = one
	return one, nil
}

func (c *campaign) run_(ctx context.Context, value data) (answer, error) {
	if err := c.election.Campaign(ctx, string(value)); err != nil {
		return nil, err
	}
	return answer{"key": c.run.text([]byte(c.election.Key())), "created": c.run.revision(c.election.Rev())}, nil
}

func (r *run) election(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	switch s.Do {
	case "campaign":
		one, err := r.newCampaign(ctx, s)
		if err != nil {
			return nil, err
		}
		return one.run_(ctx, s.Value)
	case "leader":
		one, err := r.anyElection(client, s.Name)
		if err != nil {
			return nil, err
		}
		given, err := one.Leader(ctx)
		if err != nil {
			return nil, err
		}
		return answer{"kv": r.names.kv(given.Kvs[0])}, nil
	case "observe":
		one, err := r.anyElection(client, s.Name)
		if err != nil {
			return nil, err
		}
		r.views[s.As] = &observer{one.Observe(r.ctx)}
		return answer{}, nil
	case "observed":
		for {
			select {
			case given := <-r.views[s.Observer].values:
				if string(given.Kvs[0].Value) == string(s.Value) {
					return answer{"value": r.text(given.Kvs[0].Value)}, nil
				}
			case <-ctx.Done():
				return nil, fmt.Errorf("%q was not observed", s.Value)
			}
		}
	}
	one, ok := r.runs[s.Campaign]
	if !ok {
		return nil, fmt.Errorf("no campaign is named %q", s.Campaign)
	}
	if s.Do == "proclaim" {
		return answer{}, one.election.Proclaim(ctx, string(s.Value))
	}
	return answer{}, one.election.Resign(ctx)
}

// anyElection looks at an election without taking part: the package wants a session for that too, whose lease is not used.
func (r *run) anyElection(client *clientv3.Client, name string) (*concurrency.Election, error) {
	if session, ok := r.lookers[client]; ok {
		return concurrency.NewElection(session, name), nil
	}
	session, err := concurrency.NewSession(client, concurrency.WithContext(r.ctx))
	if err != nil {
		return nil, err
	}
	r.lookers[client] = session
	return concurrency.NewElection(session, name), nil
}

// stm moves money between accounts in concurrent transactions of two clients; the sum must stay.
func (r *run) stm(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	for _, account := range s.Accounts {
		if _, err := client.Put(ctx, account, strconv.Itoa(s.Initial)); err != nil {
			return nil, err
		}
	}
	errs := make([]error, s.Workers)
	var workers sync.WaitGroup
	for at := range s.Workers {
		client, err := r.client(string(rune('a' + at%2)))
		if err != nil {
			return nil, err
		}
		workers.Go(func() {
			for turn := range s.Transfers {
				from, to := s.Accounts[(at+turn)%len(s.Accounts)], s.Accounts[(at+turn+1)%len(s.Accounts)]
				if errs[at] == nil {
					errs[at] = transfer(ctx, client, from, to)
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	sum, version := 0, int64(0)
	for _, account := range s.Accounts {
		given, err := client.Get(ctx, account)
		if err != nil {
			return nil, err
		}
		balance, err := strconv.Atoi(string(given.Kvs[0].Value))
		if err != nil {
			return nil, err
		}
		sum += balance
		version += given.Kvs[0].Version
	}
	return answer{"sum": sum, "versions": version}, nil
}

func transfer(ctx context.Context, client *clientv3.Client, from, to string) error {
	_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
		have, err := strconv.Atoi(stm.Get(from))
		if err != nil {
			return err
		}
		other, err := strconv.Atoi(stm.Get(to))
		if err != nil {
			return err
		}
		stm.Put(from, strconv.Itoa(have-1))
		stm.Put(to, strconv.Itoa(other+1))
		return nil
	}, concurrency.WithAbortContext(ctx))
	return err
}
