// Driver for franz-go; its line format is in ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

type record struct {
	Key       *[]byte `json:"k"`
	Value     *[]byte `json:"v"`
	Headers   [][]any `json:"h"`
	Timestamp int64   `json:"t"`
	Partition *int32  `json:"p"`
	Offset    int64   `json:"o"`
}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(value any) {
	line, err := json.Marshal(value)
	check(err)
	fmt.Println(string(line))
}

func deref(data *[]byte) []byte {
	if data == nil {
		return nil
	}
	return *data
}

func ref(data []byte) *[]byte {
	if data == nil {
		return nil
	}
	return &data
}

// choose keeps the partition that the input names, and hashes the key otherwise.
func choose() kgo.Partitioner {
	byKey := kgo.StickyKeyPartitioner(nil)
	return kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		chooser := byKey.ForTopic(topic)
		return func(r *kgo.Record, n int) int {
			if r.Partition >= 0 {
				return int(r.Partition)
			}
			return chooser.Partition(r, n)
		}
	})
}

// options are those of the settings that this driver knows: acks=0|1|all, version=0.11 (as to a broker of that release).
func options(settings []string) []kgo.Opt {
	found := []kgo.Opt{}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		switch {
		case name == "acks" && value == "0":
			found = append(found, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
		case name == "acks" && value == "1":
			found = append(found, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
		case name == "tell": // see produce
		case name == "version":
			found = append(found, kgo.MaxVersions(kversion.FromString(value)))
		default:
			check(fmt.Errorf("unknown setting %s", setting))
		}
	}
	return found
}

func produce(ctx context.Context, bootstrap, topic, codec string, settings []string) {
	client, err := kgo.NewClient(append(options(settings), kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ProducerBatchCompression(codecs[codec]),
		kgo.ProducerLinger(5*time.Millisecond), kgo.RecordPartitioner(choose()))...)
	check(err)
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	tells := slices.Contains(settings, "tell=acks")
	count := 0
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		check(err)
		var r record
		check(json.Unmarshal(line, &r))
		sent := &kgo.Record{Topic: topic, Key: deref(r.Key), Value: deref(r.Value), Timestamp: time.UnixMilli(r.Timestamp), Partition: -1}
		if r.Partition != nil {
			sent.Partition = *r.Partition
		}
		for _, pair := range r.Headers {
			var value *[]byte
			text, err := json.Marshal(pair[1])
			check(err)
			check(json.Unmarshal(text, &value))
			sent.Headers = append(sent.Headers, kgo.RecordHeader{Key: pair[0].(string), Value: deref(value)})
		}
		number := count
		client.Produce(ctx, sent, func(r *kgo.Record, err error) {
			check(err)
			if tells {
				write(map[string]int64{"n": int64(number), "o": r.Offset})
			}
		})
		count++
	}
	check(client.Flush(ctx))
	client.Close()
	write(map[string]int{"acked": count})
}

func show(r *kgo.Record) {
	headers := [][]any{}
	for _, h := range r.Headers {
		headers = append(headers, []any{h.Key, ref(h.Value)})
	}
	write(record{ref(r.Key), ref(r.Value), headers, r.Timestamp.UnixMilli(), &r.Partition, r.Offset})
}

func consume(ctx context.Context, bootstrap, topic, group string, count int, settings []string) {
	client, err := kgo.NewClient(append(options(settings), kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second))...)
	check(err)
	polling, stop := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	seen := 0
	for polling.Err() == nil && (count == 0 || seen < count) {
		limit := 500
		if count > 0 {
			limit = min(limit, count-seen)
		}
		fetches := client.PollRecords(polling, limit)
		for _, failure := range fetches.Errors() {
			if polling.Err() == nil {
				check(failure.Err)
			}
		}
		fetches.EachRecord(func(r *kgo.Record) {
			show(r)
			seen++
		})
	}
	if seen > 0 {
		check(client.CommitUncommittedOffsets(ctx))
	}
	client.Close()
}

func times(ctx context.Context, bootstrap, topic string, timestamp int64) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	check(err)
	admin := kadm.NewClient(client)
	found, err := admin.ListOffsetsAfterMilli(ctx, timestamp, topic)
	check(err)
	for _, each := range found.Offsets().Sorted() {
		asked, _ := found.Lookup(topic, each.Partition)
		check(asked.Err)
		offset := asked.Offset
		if asked.Timestamp < 0 {
			offset = -1 // kadm answers with the end offset where no record is new enough
		}
		write(map[string]int64{"p": int64(each.Partition), "o": offset})
	}
	client.Close()
}

func seek(ctx context.Context, bootstrap, topic string, offsets []string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumePartitions(
		map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	check(err)
	check(client.PollRecords(ctx, 1).Err()) // offsets can be set only once the partition is consumed
	for _, text := range offsets {
		offset, err := strconv.ParseInt(text, 10, 64)
		check(err)
		client.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: offset}}})
		fetches := client.PollRecords(ctx, 1)
		check(fetches.Err())
		fetches.EachRecord(show)
	}
	client.Close()
}

func admin(ctx context.Context, bootstrap, topic, group string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	check(err)
	adm := kadm.NewClient(client)
	made := topic + "-made"
	config := func(name string) string {
		found, err := adm.DescribeTopicConfigs(ctx, made)
		check(err)
		topicConfigs, err := found.On(made, nil)
		check(err)
		for _, each := range topicConfigs.Configs {
			if each.Key == name {
				return each.MaybeValue()
			}
		}
		return ""
	}
	_, err = adm.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": kadm.StringPtr("3600000")}, made)
	check(err)
	topics, err := adm.ListTopics(ctx)
	check(err)
	retention := config("retention.ms")
	changes := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: kadm.StringPtr("5000")}}
	altered, err := adm.AlterTopicConfigs(ctx, changes, made)
	check(err)
	check(altered[0].Err)
	upTo := kadm.Offsets{}
	upTo.Add(kadm.Offset{Topic: topic, Partition: 0, At: 10})
	deleted, err := adm.DeleteRecords(ctx, upTo)
	check(err)
	check(deleted.Error())
	groups, err := adm.DescribeGroups(ctx, group)
	check(err)
	check(groups.Error())
	listed, err := adm.ListGroups(ctx)
	check(err)
	alteredTo := config("max.message.bytes")
	_, err = adm.DeleteTopic(ctx, made)
	check(err)
	fresh, err := kgo.NewClient(kgo.SeedBrokers(bootstrap)) // a client may answer from its metadata cache
	check(err)
	after, err := kadm.NewClient(fresh).ListTopics(ctx)
	check(err)
	fresh.Close()
	write(map[string]any{
		"partitions": len(topics[made].Partitions), "retention": retention, "altered": alteredTo,
		"group": groups[group].State, "group_listed": listed[group].Group == group,
		"low": deleted[topic][0].LowWatermark, "listed": topics.Has(made), "gone": !after.Has(made),
	})
	client.Close()
}

func main() {
	ctx, a := context.Background(), os.Args[1:]
	switch a[0] {
	case "produce":
		produce(ctx, a[1], a[2], a[3], a[4:])
	case "consume":
		count, err := strconv.Atoi(a[4])
		check(err)
		consume(ctx, a[1], a[2], a[3], count, a[5:])
	case "member":
		newMember(a[1], a[2], strings.Split(a[3], ","), a[4:]).run(ctx)
	case "times":
		timestamp, err := strconv.ParseInt(a[3], 10, 64)
		check(err)
		times(ctx, a[1], a[2], timestamp)
	case "seek":
		seek(ctx, a[1], a[2], a[3:])
	case "admin":
		admin(ctx, a[1], a[2], a[3])
	}
}
