// Driver for Apache Kafka's Java client; its line format is in ../README.md.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Driver {
    static final ObjectMapper JSON = new ObjectMapper();
    static final BufferedReader IN = new BufferedReader(new InputStreamReader(System.in));

    static byte[] unpack(JsonNode node) {
        return node == null || node.isNull() ? null : Base64.getDecoder().decode(node.asText());
    }

    static String pack(byte[] data) {
        return data == null ? null : Base64.getEncoder().encodeToString(data);
    }

    static void produce(String bootstrap, String topic, String codec) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "compression.type", codec, "linger.ms", 5,
            "enable.idempotence", true, "max.request.size", 1_040_000);
        int acked = 0;
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<?>> waiting = new ArrayList<>();
            for (String line = IN.readLine(); line != null; line = IN.readLine()) {
                JsonNode r = JSON.readTree(line);
                Integer partition = r.hasNonNull("p") ? r.get("p").asInt() : null;
                var record = new ProducerRecord<>(topic, partition, r.get("t").asLong(), unpack(r.get("k")), unpack(r.get("v")));
                for (JsonNode h : r.withArray("h")) record.headers().add(h.get(0).asText(), unpack(h.get(1)));
                waiting.add(producer.send(record));
            }
            for (Future<?> each : waiting) {
                each.get();
                acked++;
            }
        }
        System.out.println(JSON.createObjectNode().put("acked", acked));
    }

    static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, String group) {
        return new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrap, "group.id", group, "auto.offset.reset", "earliest",
            "enable.auto.commit", false, "session.timeout.ms", 6000, "heartbeat.interval.ms", 1000),
            new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static void consume(String bootstrap, String topic, String group, int count) throws Exception {
        var stop = new AtomicBoolean();
        var waiter = new Thread(() -> {
            try {
                while (IN.readLine() != null) { }
            } catch (Exception ignored) {
            }
            stop.set(true);
        });
        waiter.setDaemon(true);
        waiter.start();
        int seen = 0;
        try (var consumer = consumer(bootstrap, group)) {
            consumer.subscribe(List.of(topic));
            while (!stop.get() && (count == 0 || seen < count)) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
                    ObjectNode out = JSON.createObjectNode();
                    out.put("p", r.partition()).put("o", r.offset()).put("t", r.timestamp());
                    out.put("k", pack(r.key())).put("v", pack(r.value()));
                    ArrayNode headers = out.putArray("h");
                    for (Header h : r.headers()) headers.addArray().add(h.key()).add(pack(h.value()));
                    System.out.println(out);
                    seen++;
                }
            }
            if (seen > 0) consumer.commitSync();
        }
    }

    static void times(String bootstrap, String topic, long timestamp) {
        try (var consumer = consumer(bootstrap, "times")) {
            Map<TopicPartition, Long> asked = new HashMap<>();
            for (PartitionInfo p : consumer.partitionsFor(topic)) asked.put(new TopicPartition(topic, p.partition()), timestamp);
            var found = consumer.offsetsForTimes(asked);
            asked.keySet().stream().sorted((a, b) -> a.partition() - b.partition()).forEach(p -> {
                var offset = found.get(p);
                System.out.println(JSON.createObjectNode().put("p", p.partition()).put("o", offset == null ? -1 : offset.offset()));
            });
        }
    }

    public static void main(String[] a) throws Exception {
        switch (a[0]) {
            case "produce" -> produce(a[1], a[2], a[3]);
            case "consume" -> consume(a[1], a[2], a[3], Integer.parseInt(a[4]));
            case "times" -> times(a[1], a[2], Long.parseLong(a[3]));
        }
    }
}
