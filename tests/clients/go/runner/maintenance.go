package main

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// maintenance shows of a member and its cluster what must be alike although the clusters are not.
func (r *run) maintenance(ctx context.Context, client *clientv3.Client, s *step) (answer, error) {
	endpoint := client.Endpoints()[0]
	switch s.Do {
	case "status":
		given, err := client.Status(ctx, endpoint)
		if err != nil {
			return nil, err
		}
		return answer{
			"leader":   given.Leader != 0,
			"term":     given.RaftTerm > 0,
			"index":    given.RaftIndex > 0 && given.RaftAppliedIndex <= given.RaftIndex,
			"size":     given.DbSize > 0 && given.DbSizeInUse <= given.DbSize,
			"learner":  given.IsLearner,
			"errors":   len(given.Errors),
			"api":      given.Version[:len("3.7")],
			"revision": r.revision(given.Header.Revision),
		}, nil
	case "members":
		given, err := client.MemberList(ctx)
		if err != nil {
			return nil, err
		}
		complete := len(given.Members) > 0
		for _, one := range given.Members {
			complete = complete && one.ID != 0 && one.Name != "" && len(one.PeerURLs) == 1 && len(one.ClientURLs) == 1
		}
		return answer{"complete": complete}, nil
	case "alarms":
		given, err := client.AlarmList(ctx)
		if err != nil {
			return nil, err
		}
		return answer{"alarms": len(given.Alarms)}, nil
	case "hash_kv":
		given, err := client.HashKV(ctx, endpoint, s.Revision.at(r.base))
		if err != nil {
			return nil, err
		}
		return answer{"revision": r.revision(given.Header.Revision), "hash": given.Hash != 0}, nil
	}
	_, err := client.Defragment(ctx, endpoint)
	return answer{}, err
}
