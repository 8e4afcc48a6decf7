package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const commitInterval = 200 * time.Millisecond

type place struct {
	topic     string
	partition int32
}

// member of a consumer group, which tells everything that happens to it; its lines are described in ../README.md.
type member struct {
	lock   sync.Mutex
	client *kgo.Client
	last   map[place]*kgo.Record // what was polled and is not committed yet
}

type told map[string]any

func places(partitions map[string][]int32) [][]any {
	found := [][]any{}
	for topic, indexes := range partitions {
		for _, index := range indexes {
			found = append(found, []any{topic, index})
		}
	}
	return found
}

func newMember(bootstrap, group string, topics []string, settings []string) *member {
	m := &member{last: map[place]*kgo.Record{}}
	client, err := kgo.NewClient(append(options(settings), kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			write(told{"event": "assigned", "partitions": places(partitions)})
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, partitions map[string][]int32) {
			m.commit(ctx, client)
			write(told{"event": "revoked", "partitions": places(partitions)})
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			m.forget(partitions)
			write(told{"event": "lost", "partitions": places(partitions)})
		}))...)
	check(err)
	m.client = client
	return m
}

func (m *member) forget(partitions map[string][]int32) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for topic, indexes := range partitions {
		for _, index := range indexes {
			delete(m.last, place{topic, index})
		}
	}
}

func (m *member) commit(ctx context.Context, client *kgo.Client) {
	m.lock.Lock()
	defer m.lock.Unlock()
	if len(m.last) == 0 {
		return
	}
	records, offsets := []*kgo.Record{}, [][]any{}
	for at, r := range m.last {
		records = append(records, r)
		offsets = append(offsets, []any{at.topic, at.partition, r.Offset + 1})
	}
	var failure any
	if err := client.CommitRecords(ctx, records...); err != nil {
		failure = err.Error()
	}
	write(told{"event": "commit", "offsets": offsets, "error": failure})
	clear(m.last)
}

func (m *member) show(fetches kgo.Fetches) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for _, failure := range fetches.Errors() {
		if !errors.Is(failure.Err, context.DeadlineExceeded) && !errors.Is(failure.Err, context.Canceled) {
			write(told{"event": "error", "error": failure.Err.Error()})
		}
	}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		seen := [][]any{}
		for _, r := range p.Records {
			id, _, _ := strings.Cut(string(r.Value), "|")
			seen = append(seen, []any{r.Offset, id})
			m.last[place{p.Topic, p.Partition}] = r
		}
		if len(seen) > 0 {
			write(told{"event": "polled", "topic": p.Topic, "partition": p.Partition, "records": seen})
		}
	})
}

func (m *member) run(ctx context.Context) {
	polling, stop := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	write(told{"event": "subscribed"})
	committedAt := time.Now()
	for polling.Err() == nil {
		soon, cancel := context.WithTimeout(polling, commitInterval)
		m.show(m.client.PollRecords(soon, 500))
		cancel()
		if time.Since(committedAt) > commitInterval {
			m.commit(ctx, m.client)
			committedAt = time.Now()
		}
		m.client.AllowRebalance()
	}
	m.commit(ctx, m.client)
	m.client.CloseAllowingRebalance()
	write(told{"event": "closed"})
}
