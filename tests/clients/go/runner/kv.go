package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pollEvery is how often a condition that no watch can tell is looked at.
const pollEvery = 10 * time.Millisecond

func (r *run) kv(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	switch s.Do {
	case "compact":
		var options []clientv3.CompactOption
		if s.Physical {
			options = append(options, clientv3.WithCompactPhysical())
		}
		given, err := client.Compact(ctx, s.Revision.at(r.base), options...)
		if err != nil {
			return nil, err
		}
		return answer{"revision": r.revision(given.Header.Revision)}, nil
	case "txn":
		return r.txn(ctx, client, s)
	}
	if s.Do == "get_stream" {
		return r.stream(ctx, client, s)
	}
	op, err := r.op(s)
	if err != nil {
		return nil, err
	}
	given, err := client.Do(ctx, op)
	switch {
	case err != nil:
		return nil, err
	case given.Put() != nil:
		return r.put((*pb.PutResponse)(given.Put())), nil
	case given.Del() != nil:
		return r.deleted((*pb.DeleteRangeResponse)(given.Del())), nil
	}
	return r.range_((*pb.RangeResponse)(given.Get())), nil
}

func (r *run) txn(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	tests, then, otherwise, err := r.branches(s)
	if err != nil {
		return nil, err
	}
	given, err := client.Txn(ctx).If(tests...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return nil, err
	}
	return r.txnAnswer((*pb.TxnResponse)(given)), nil
}

func (r *run) branches(s *step) (tests []clientv3.Cmp, then, otherwise []clientv3.Op, err error) {
	for _, one := range s.If {
		made, err := r.compare(one)
		if err != nil {
			return nil, nil, nil, err
		}
		tests = append(tests, made)
	}
	if then, err = r.ops(s.Then); err == nil {
		otherwise, err = r.ops(s.Else)
	}
	return tests, then, otherwise, err
}

func (r *run) ops(steps []*step) (ops []clientv3.Op, err error) {
	for _, one := range steps {
		op, err := r.op(one)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// op is a put, get, delete or transaction, alone or within a transaction.
func (r *run) op(s *step) (clientv3.Op, error) {
	if s.Do == "txn" {
		tests, then, otherwise, err := r.branches(s)
		return clientv3.OpTxn(tests, then, otherwise), err
	}
	options := rangeOptions(s)
	add := func(wanted bool, option func() clientv3.OpOption) {
		if wanted {
			options = append(options, option())
		}
	}
	add(s.PrevKv, clientv3.WithPrevKV)
	switch s.Do {
	case "put":
		lease, err := r.id(s.Lease)
		if err != nil {
			return clientv3.Op{}, err
		}
		add(lease != 0, func() clientv3.OpOption { return clientv3.WithLease(lease) })
		add(s.IgnoreValue, clientv3.WithIgnoreValue)
		add(s.IgnoreLease, clientv3.WithIgnoreLease)
		return clientv3.OpPut(string(s.Key), string(s.Value), options...), nil
	case "delete":
		return clientv3.OpDelete(string(s.Key), options...), nil
	case "get":
		return clientv3.OpGet(string(s.Key), r.readOptions(s)...), nil
	}
	return clientv3.Op{}, fmt.Errorf("%q is no operation", s.Do)
}

// rangeOptions are those of a read, a deletion or a watch of many keys.
func rangeOptions(s *step) (options []clientv3.OpOption) {
	if s.Prefix {
		options = append(options, clientv3.WithPrefix())
	}
	if s.FromKey {
		options = append(options, clientv3.WithFromKey())
	}
	if s.RangeEnd != "" {
		options = append(options, clientv3.WithRange(string(s.RangeEnd)))
	}
	return options
}

func (r *run) readOptions(s *step) []clientv3.OpOption {
	options := append(rangeOptions(s), clientv3.WithLimit(s.Limit), clientv3.WithRev(s.Revision.at(r.base)),
		clientv3.WithMinModRev(s.MinMod.at(r.base)), clientv3.WithMaxModRev(s.MaxMod.at(r.base)),
		clientv3.WithMinCreateRev(s.MinCreate.at(r.base)), clientv3.WithMaxCreateRev(s.MaxCreate.at(r.base)))
	if s.Serial {
		options = append(options, clientv3.WithSerializable())
	}
	if s.KeysOnly {
		options = append(options, clientv3.WithKeysOnly())
	}
	if s.CountOnly {
		options = append(options, clientv3.WithCountOnly())
	}
	if len(s.Sort) == 2 {
		options = append(options, clientv3.WithSort(sortTargets[s.Sort[0]], sortOrders[s.Sort[1]]))
	}
	return options
}

// stream reads in pieces and puts them together.
func (r *run) stream(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	pieces, err := client.GetStream(ctx, string(s.Key), r.readOptions(s)...)
	if err != nil {
		return nil, err
	}
	given, err := clientv3.GetStreamToGetResponse(pieces)
	if err != nil {
		return nil, err
	}
	return r.range_((*pb.RangeResponse)(given)), nil
}

var sortTargets = map[string]clientv3.SortTarget{
	"key": clientv3.SortByKey, "version": clientv3.SortByVersion, "create": clientv3.SortByCreateRevision,
	"mod": clientv3.SortByModRevision, "value": clientv3.SortByValue,
}

var sortOrders = map[string]clientv3.SortOrder{
	"none": clientv3.SortNone, "ascend": clientv3.SortAscend, "descend": clientv3.SortDescend,
}

func (r *run) compare(t *test) (clientv3.Cmp, error) {
	var subject clientv3.Cmp
	key := string(t.Key)
	switch t.Target {
	case "version":
		subject = clientv3.Version(key)
	case "create":
		subject = clientv3.CreateRevision(key)
	case "mod":
		subject = clientv3.ModRevision(key)
	case "value":
		subject = clientv3.Value(key)
	case "lease":
		subject = clientv3.LeaseValue(key)
	default:
		return subject, fmt.Errorf("%q cannot be compared", t.Target)
	}
	to, err := r.operand(t)
	if err != nil {
		return subject, err
	}
	made := clientv3.Compare(subject, t.Is, to)
	if t.Prefix {
		made = made.WithPrefix()
	}
	if t.RangeEnd != "" {
		made = made.WithRange(string(t.RangeEnd))
	}
	return made, nil
}

// operand is what a comparison compares with, in the type that the client wants.
func (r *run) operand(t *test) (any, error) {
	switch t.Target {
	case "value":
		var value data
		err := json.Unmarshal(t.To, &value)
		return string(value), err
	case "lease":
		var lease leaseRef
		if err := json.Unmarshal(t.To, &lease); err != nil {
			return nil, err
		}
		return r.id(lease)
	}
	var number revision
	err := json.Unmarshal(t.To, &number)
	return number.at(r.base), err
}

func (r *run) await(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	for {
		given, err := client.Get(ctx, string(s.Key), clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return nil, err
		}
		if given.Count == int64(s.Count) {
			return answer{"count": given.Count}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("there are %d keys, not %d", given.Count, s.Count)
		case <-time.After(pollEvery):
		}
	}
}

func (r *run) put(given *pb.PutResponse) answer {
	return answer{"revision": r.headerRevision(given.Header), "prev_kv": r.names.kv(given.PrevKv)}
}

func (r *run) deleted(given *pb.DeleteRangeResponse) answer {
	return answer{
		"revision": r.headerRevision(given.Header),
		"deleted":  given.Deleted,
		"prev_kvs": r.kvs(given.PrevKvs),
	}
}

func (r *run) range_(given *pb.RangeResponse) answer {
	return answer{
		"revision": r.headerRevision(given.Header),
		"count":    given.Count,
		"more":     given.More,
		"kvs":      r.kvs(given.Kvs),
	}
}

func (r *run) txnAnswer(given *pb.TxnResponse) answer {
	responses := []any{}
	for _, one := range given.Responses {
		switch one := one.Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			responses = append(responses, answer{"put": r.put(one.ResponsePut)})
		case *pb.ResponseOp_ResponseRange:
			responses = append(responses, answer{"get": r.range_(one.ResponseRange)})
		case *pb.ResponseOp_ResponseDeleteRange:
			responses = append(responses, answer{"delete": r.deleted(one.ResponseDeleteRange)})
		case *pb.ResponseOp_ResponseTxn:
			responses = append(responses, answer{"txn": r.txnAnswer(one.ResponseTxn)})
		}
	}
	return answer{
		"revision":  r.headerRevision(given.Header),
		"succeeded": given.Succeeded,
		"responses": responses,
	}
}

// headerRevision is null where there is no header: operations within a transaction may have none.
func (r *run) headerRevision(header *pb.ResponseHeader) any {
	if header == nil {
		return nil
	}
	return r.revision(header.Revision)
}
