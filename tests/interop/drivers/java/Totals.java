// A Kafka Streams application: counts and sums by word, exactly once. Its command line is in ../README.md.
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public class Totals {
    /** `total` is "COUNT SUM"; one more number goes in. */
    static String add(String total, String number) {
        String[] parts = total.split(" ");
        return (Long.parseLong(parts[0]) + 1) + " " + (Long.parseLong(parts[1]) + Long.parseLong(number));
    }

    /** Values are "WORD NUMBER": grouped by the word through a repartition topic, aggregated in a store with a changelog. */
    static StreamsBuilder topology(String input, String output, String store) {
        var text = Serdes.String();
        var supplier = store.equals("rocksdb") ? Stores.persistentKeyValueStore("totals") : Stores.inMemoryKeyValueStore("totals");
        var builder = new StreamsBuilder();
        builder.stream(input, Consumed.with(text, text))
            .map((key, value) -> org.apache.kafka.streams.KeyValue.pair(value.split(" ")[0], value.split(" ")[1]))
            .groupByKey(Grouped.with(text, text))
            .aggregate(() -> "0 0", (word, number, total) -> add(total, number),
                Materialized.<String, String>as(supplier).withKeySerde(text).withValueSerde(text).withCachingDisabled())
            .toStream()
            .to(output, Produced.with(text, text));
        return builder;
    }

    public static void main(String[] a) throws Exception {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", a[0], "application.id", a[1], "state.dir", a[4],
            "processing.guarantee", "exactly_once_v2", "commit.interval.ms", 100, "num.stream.threads", 1,
            "producer.transaction.timeout.ms", 4000, "consumer.session.timeout.ms", 3000,
            "consumer.heartbeat.interval.ms", 500, "reconnect.backoff.max.ms", 100));
        config.put("auto.offset.reset", "earliest");
        config.put("metadata.recovery.strategy", "none");
        for (String each : Arrays.asList(a).subList(6, a.length)) config.put(each.split("=", 2)[0], each.split("=", 2)[1]);
        var properties = new Properties();
        properties.putAll(config);
        var closed = new CountDownLatch(1);
        var streams = new KafkaStreams(topology(a[2], a[3], a[5]).build(), properties);
        streams.setUncaughtExceptionHandler(error -> {
            System.out.println("replace " + error);
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.setStateListener((now, before) -> System.out.println("state " + now));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            closed.countDown();
        }));
        streams.start();
        closed.await();
    }
}
