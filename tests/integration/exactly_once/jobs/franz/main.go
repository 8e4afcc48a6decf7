// The copy job with franz-go; its arguments and lines are in ../README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type fields map[string]any

func write(event string, more fields) {
	line := fields{"e": event, "t": float64(time.Now().UnixMicro()) / 1e6}
	for name, value := range more {
		line[name] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(text, '\n'))
}

// fail ends an incarnation that only a restart heals.
func fail(what string, err error) {
	if err != nil {
		write("error", fields{"fatal": true, "text": fmt.Sprintf("%s: %v", what, err)})
		os.Exit(3)
	}
}

func number(options map[string]string, name string) int {
	value, err := strconv.Atoi(options[name])
	fail(name, err)
	return value
}

func writePoll(records []*kgo.Record) {
	told, at := [][]any{}, map[int32]int64{}
	for _, r := range records {
		at[r.Partition] = r.Offset + 1
		if !r.Attrs.IsControl() {
			told = append(told, []any{r.Partition, r.Offset, string(r.Value)})
		}
	}
	positions := [][]int64{}
	for partition, position := range at {
		positions = append(positions, []int64{int64(partition), position})
	}
	if len(positions) > 0 {
		write("poll", fields{"r": told, "at": positions})
	}
}

type job struct {
	options    map[string]string
	chance     *rand.Rand
	session    *kgo.GroupTransactSession
	partitions int
	sent       int
}

// anew: what is polled from now on is another reading; where it begins, only the client knows.
func (j *job) anew() {
	for partition := range number(j.options, "input.partitions") {
		write("assigned", fields{"p": partition, "o": nil})
	}
}

func (j *job) copy(ctx context.Context, records []*kgo.Record) {
	aborts, stage := j.chance.Intn(100) < number(j.options, "abort.percent"), j.chance.Intn(2)
	fail("begin", j.session.Begin())
	sends, copies := [][]any{}, []*kgo.Record{}
	for _, r := range records {
		j.sent++
		id, partition := fmt.Sprintf("%s-%d", j.options["name"], j.sent), int32(j.chance.Intn(j.partitions))
		sends = append(sends, []any{id, partition, string(r.Value)})
		copies = append(copies, &kgo.Record{Topic: j.options["output"], Partition: partition, Key: r.Key, Value: []byte(id + "|" + string(r.Value))})
	}
	write("sends", fields{"s": sends})
	var lock sync.Mutex
	acks, failed := [][]any{}, error(nil)
	for i, each := range copies {
		j.session.Produce(ctx, each, func(r *kgo.Record, err error) {
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				failed = err
			} else {
				acks = append(acks, []any{sends[i][0], r.Offset})
			}
		})
	}
	if !aborts || stage > 0 {
		fail("flush", j.session.Client().Flush(ctx))
		time.Sleep(time.Duration(j.chance.Intn(30)) * time.Millisecond)
	}
	lock.Lock()
	if failed != nil {
		write("error", fields{"fatal": false, "text": "produce: " + failed.Error()})
		aborts = true
	}
	write("acks", fields{"s": acks})
	lock.Unlock()
	if !aborts {
		write("commit", nil)
	}
	committed, err := j.session.End(ctx, kgo.TransactionEndTry(!aborts))
	fail("end", err)
	if committed {
		write("end", fields{"outcome": "committed"})
		return
	}
	write("end", fields{"outcome": "aborted"})
	j.anew()
}

func (j *job) run(ctx context.Context, stop <-chan struct{}) {
	milliseconds := func(name string) time.Duration { return time.Duration(number(j.options, name)) * time.Millisecond }
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(j.options["bootstrap"]),
		kgo.TransactionalID(j.options["transactional.id"]),
		kgo.TransactionTimeout(milliseconds("transaction.timeout.ms")),
		kgo.ConsumerGroup(j.options["group"]),
		kgo.SessionTimeout(milliseconds("session.timeout.ms")),
		kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.ConsumeTopics(j.options["input"]),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(2*time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			for _, partition := range got[j.options["input"]] {
				write("assigned", fields{"p": partition, "o": nil})
			}
		}),
	)
	fail("client", err)
	j.session = session
	write("ready", nil)
	polls, cancel := context.WithCancel(ctx)
	go func() {
		<-stop
		cancel()
	}()
	for polls.Err() == nil {
		fetches := session.PollRecords(polls, 1+j.chance.Intn(40))
		for _, each := range fetches.Errors() {
			if each.Err != context.Canceled {
				write("error", fields{"fatal": false, "text": "poll: " + each.Err.Error()})
			}
		}
		if records := fetches.Records(); len(records) > 0 {
			writePoll(records)
			j.copy(ctx, records)
		}
	}
	session.Close()
}

func read(ctx context.Context, options map[string]string) {
	partitions := number(options, "partitions")
	from := map[int32]kgo.Offset{}
	for partition := range partitions {
		from[int32(partition)] = kgo.NewOffset().At(0)
		write("assigned", fields{"p": partition, "o": 0})
	}
	isolation := kgo.ReadUncommitted()
	if options["isolation"] == "read_committed" {
		isolation = kgo.ReadCommitted()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(options["bootstrap"]), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{options["topic"]: from}))
	fail("client", err)
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, options["topic"])
	fail("end offsets", err)
	unread := map[int32]int64{}
	for partition, end := range ends[options["topic"]] {
		if end.Offset > 0 {
			unread[partition] = end.Offset
		}
	}
	for len(unread) > 0 {
		records := client.PollFetches(ctx).Records()
		writePoll(records)
		for _, r := range records {
			if end, waiting := unread[r.Partition]; waiting && r.Offset+1 >= end {
				delete(unread, r.Partition)
			}
		}
	}
}

func main() {
	options := map[string]string{}
	for _, each := range os.Args[2:] {
		name, value, _ := strings.Cut(each, "=")
		options[name] = value
	}
	if os.Args[1] == "read" {
		read(context.Background(), options)
		return
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	j := &job{options: options, chance: rand.New(rand.NewSource(int64(number(options, "seed")))), partitions: number(options, "partitions")}
	j.run(context.Background(), stop)
}
