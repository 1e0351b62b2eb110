package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// longestShown is the longest value that an answer shows whole.
const longestShown = 64

// step is one step of a scenario; which fields count depends on Do.
type step struct {
	Do          string   `json:"do"`
	Session     string   `json:"session"`
	As          string   `json:"as"`
	What        string   `json:"what"`
	Background  bool     `json:"background"`
	Key         data     `json:"key"`
	Value       data     `json:"value"`
	RangeEnd    data     `json:"range_end"`
	Prefix      bool     `json:"prefix"`
	FromKey     bool     `json:"from_key"`
	Limit       int64    `json:"limit"`
	Sort        []string `json:"sort"`
	Revision    revision `json:"revision"`
	MinMod      revision `json:"min_mod"`
	MaxMod      revision `json:"max_mod"`
	MinCreate   revision `json:"min_create"`
	MaxCreate   revision `json:"max_create"`
	Serial      bool     `json:"serializable"`
	KeysOnly    bool     `json:"keys_only"`
	CountOnly   bool     `json:"count_only"`
	PrevKv      bool     `json:"prev_kv"`
	IgnoreValue bool     `json:"ignore_value"`
	IgnoreLease bool     `json:"ignore_lease"`
	Lease       leaseRef `json:"lease"`
	Physical    bool     `json:"physical"`
	If          []*test  `json:"if"`
	Then        []*step  `json:"then"`
	Else        []*step  `json:"else"`
	TTL         int64    `json:"ttl"`
	ID          int64    `json:"id"`
	Keys        bool     `json:"keys"`
	Rounds      int      `json:"rounds"`
	Filters     []string `json:"filters"`
	Progress    bool     `json:"progress_notify"`
	Fragment    bool     `json:"fragment"`
	Watch       string   `json:"watch"`
	Count       int      `json:"count"`
	Name        string   `json:"name"`
	Lock        string   `json:"lock"`
	Campaign    string   `json:"campaign"`
	Observer    string   `json:"observer"`
	Accounts    []string `json:"accounts"`
	Initial     int      `json:"initial"`
	Workers     int      `json:"workers"`
	Transfers   int      `json:"transfers"`
}

// test is one comparison of a transaction.
type test struct {
	Key      data            `json:"key"`
	RangeEnd data            `json:"range_end"`
	Prefix   bool            `json:"prefix"`
	Target   string          `json:"target"`
	Is       string          `json:"is"`
	To       json.RawMessage `json:"to"`
}

// data is a key or value: text, or bytes written as hex:…
type data string

func (d *data) UnmarshalJSON(raw []byte) error {
	var given string
	if err := json.Unmarshal(raw, &given); err != nil {
		return err
	}
	if digits, ok := strings.CutPrefix(given, "hex:"); ok {
		decoded, err := hex.DecodeString(digits)
		if err != nil {
			return err
		}
		given = string(decoded)
	}
	*d = data(given)
	return nil
}

// revision is a number as it is, or "+N" and "-N": that many from the scenario's first revision on.
type revision struct {
	number   int64
	relative bool
}

func (v *revision) UnmarshalJSON(raw []byte) error {
	var given any
	if err := json.Unmarshal(raw, &given); err != nil {
		return err
	}
	switch given := given.(type) {
	case float64:
		*v = revision{int64(given), false}
	case string:
		number, err := strconv.ParseInt(given, 10, 64)
		*v = revision{number, true}
		return err
	}
	return nil
}

func (v revision) at(base int64) int64 {
	if v.relative {
		return base + v.number
	}
	return v.number
}

// leaseRef is a lease's number, or the name that the scenario gave it.
type leaseRef struct {
	name   string
	number int64
}

func (l *leaseRef) UnmarshalJSON(raw []byte) error {
	if err := json.Unmarshal(raw, &l.number); err == nil {
		return nil
	}
	return json.Unmarshal(raw, &l.name)
}

// names translates between the scenario's words and what one server made of them.
type names struct {
	base   int64
	mutex  sync.Mutex
	leases []namedLease
}

type namedLease struct {
	name string
	id   int64
}

func (n *names) learn(name string, id clientv3.LeaseID) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.leases = append(n.leases, namedLease{name, int64(id)})
}

func (n *names) id(ref leaseRef) (clientv3.LeaseID, error) {
	if ref.name == "" {
		return clientv3.LeaseID(ref.number), nil
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	for _, one := range n.leases {
		if one.name == ref.name {
			return clientv3.LeaseID(one.id), nil
		}
	}
	return 0, fmt.Errorf("no lease is named %q", ref.name)
}

func (n *names) leaseName(id int64) any {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	for _, one := range n.leases {
		if one.id == id {
			return one.name
		}
	}
	if id == 0 {
		return 0
	}
	return "?"
}

// revision is a revision counted from the scenario's first one, with a sign; zero and less stay as they are.
func (n *names) revision(number int64) any {
	if number <= 0 {
		return number
	}
	return fmt.Sprintf("%+d", number-n.base)
}

// text shows bytes: as text if they are, with leases' ids replaced by their names; long ones by length and sum.
func (n *names) text(given []byte) string {
	sum, printable := 0, true
	for _, one := range given {
		sum += int(one)
		printable = printable && one >= ' ' && one <= '~'
	}
	if len(given) > longestShown {
		return fmt.Sprintf("<%d bytes, sum %d>", len(given), sum)
	}
	if !printable {
		return "hex:" + hex.EncodeToString(given)
	}
	shown := string(given)
	n.mutex.Lock()
	defer n.mutex.Unlock()
	for _, one := range n.leases {
		// Short ids are chosen by scenarios and could be part of any text.
		if digits := strconv.FormatInt(one.id, 16); len(digits) >= 10 {
			shown = strings.ReplaceAll(shown, digits, "<"+one.name+">")
		}
	}
	return shown
}

func (n *names) kv(given *mvccpb.KeyValue) any {
	if given == nil {
		return nil
	}
	return answer{
		"key":     n.text(given.Key),
		"value":   n.text(given.Value),
		"create":  n.revision(given.CreateRevision),
		"mod":     n.revision(given.ModRevision),
		"version": given.Version,
		"lease":   n.leaseName(given.Lease),
	}
}

func (n *names) kvs(given []*mvccpb.KeyValue) []any {
	shown := []any{}
	for _, one := range given {
		shown = append(shown, n.kv(one))
	}
	return shown
}
