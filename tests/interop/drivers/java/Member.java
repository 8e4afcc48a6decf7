// A member of a consumer group that tells everything that happens to it; its lines are described in ../README.md.
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Member implements ConsumerRebalanceListener {
    static final ObjectMapper JSON = new ObjectMapper();
    static final long COMMIT_INTERVAL_NS = 200_000_000;
    final KafkaConsumer<byte[], byte[]> consumer;
    final Map<TopicPartition, Long> positions = new HashMap<>();

    Member(Map<String, Object> config) {
        consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static ObjectNode event(String name) {
        return JSON.createObjectNode().put("at", System.nanoTime()).put("event", name);
    }

    static synchronized void tell(ObjectNode event) {
        System.out.println(event);
    }

    static ObjectNode with(ObjectNode event, Collection<TopicPartition> partitions) {
        ArrayNode all = event.putArray("partitions");
        for (TopicPartition each : partitions) all.addArray().add(each.topic()).add(each.partition());
        return event;
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        tell(with(event("assigned"), partitions));
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        commit();
        partitions.forEach(positions::remove);
        tell(with(event("revoked"), partitions));
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        partitions.forEach(positions::remove);
        tell(with(event("lost"), partitions));
    }

    void commit() {
        if (positions.isEmpty()) return;
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        positions.forEach((partition, at) -> offsets.put(partition, new OffsetAndMetadata(at)));
        String error = null;
        long began = System.nanoTime();
        try {
            consumer.commitSync(offsets);
        } catch (KafkaException failure) {
            error = failure.getClass().getSimpleName();
        }
        ObjectNode told = event("commit").put("began", began).put("error", error);
        ArrayNode all = told.putArray("offsets");
        positions.forEach((p, at) -> all.addArray().add(p.topic()).add(p.partition()).add(at));
        positions.clear();
        tell(told);
    }

    void show(ConsumerRecords<byte[], byte[]> records) {
        for (TopicPartition partition : records.partitions()) {
            ObjectNode told = event("polled").put("topic", partition.topic()).put("partition", partition.partition());
            ArrayNode all = told.putArray("records");
            for (ConsumerRecord<byte[], byte[]> record : records.records(partition)) {
                String id = new String(record.value(), StandardCharsets.ISO_8859_1).split("\\|", 2)[0];
                all.addArray().add(record.offset()).add(id);
                positions.put(partition, record.offset() + 1);
            }
            tell(told);
        }
    }

    void run(AtomicBoolean stop) {
        long committedAt = System.nanoTime();
        while (!stop.get()) {
            show(consumer.poll(Duration.ofMillis(100)));
            if (System.nanoTime() - committedAt > COMMIT_INTERVAL_NS) {
                commit();
                committedAt = System.nanoTime();
            }
        }
        commit();
    }

    public static void main(String[] a) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", a[0], "group.id", a[1],
            "auto.offset.reset", "earliest", "enable.auto.commit", false));
        for (String each : Arrays.asList(a).subList(3, a.length)) config.put(each.split("=", 2)[0], each.split("=", 2)[1]);
        var stop = new AtomicBoolean();
        var waiter = new Thread(() -> {
            try (var in = new BufferedReader(new InputStreamReader(System.in))) {
                while (in.readLine() != null) { }
            } catch (Exception ignored) {
            }
            stop.set(true);
        });
        waiter.setDaemon(true);
        waiter.start();
        var member = new Member(config);
        try (member.consumer) {
            if (a[2].startsWith("^")) member.consumer.subscribe(new SubscriptionPattern(a[2]), member);
            else member.consumer.subscribe(List.of(a[2].split(",")), member);
            tell(event("subscribed"));
            member.run(stop);
        } catch (KafkaException failure) {
            tell(event("failed").put("error", failure.getClass().getSimpleName()).put("message", failure.getMessage()));
        }
        tell(event("closed"));
    }
}
