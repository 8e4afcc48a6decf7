// Driver for franz-go; its line format is in ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
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

func produce(ctx context.Context, bootstrap, topic, codec string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ProducerBatchCompression(codecs[codec]),
		kgo.ProducerLinger(5*time.Millisecond), kgo.RecordPartitioner(choose()))
	check(err)
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
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
		client.Produce(ctx, sent, func(_ *kgo.Record, err error) { check(err) })
		count++
	}
	check(client.Flush(ctx))
	client.Close()
	write(map[string]int{"acked": count})
}

func consume(ctx context.Context, bootstrap, topic, group string, count int) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second))
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
			headers := [][]any{}
			for _, h := range r.Headers {
				headers = append(headers, []any{h.Key, ref(h.Value)})
			}
			write(record{ref(r.Key), ref(r.Value), headers, r.Timestamp.UnixMilli(), &r.Partition, r.Offset})
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

func main() {
	ctx, a := context.Background(), os.Args[1:]
	switch a[0] {
	case "produce":
		produce(ctx, a[1], a[2], a[3])
	case "consume":
		count, err := strconv.Atoi(a[4])
		check(err)
		consume(ctx, a[1], a[2], a[3], count)
	case "times":
		timestamp, err := strconv.ParseInt(a[3], 10, 64)
		check(err)
		times(ctx, a[1], a[2], timestamp)
	}
}
