// Driver for Apache Kafka's Java client; its line format is in ../README.md.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
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

    /** The defaults with the trailing NAME=VALUE arguments of the command line over them, from index `first` on. */
    static Map<String, Object> settings(Map<String, Object> defaults, String[] arguments, int first) {
        var all = new HashMap<>(defaults);
        for (String each : Arrays.asList(arguments).subList(first, arguments.length)) all.put(each.split("=", 2)[0], each.split("=", 2)[1]);
        return all;
    }

    static void produce(String topic, Map<String, Object> config) throws Exception {
        int acked = 0;
        boolean tells = "acks".equals(config.remove("tell"));
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<?>> waiting = new ArrayList<>();
            for (String line = IN.readLine(); line != null; line = IN.readLine()) {
                JsonNode r = JSON.readTree(line);
                Integer partition = r.hasNonNull("p") ? r.get("p").asInt() : null;
                var record = new ProducerRecord<>(topic, partition, r.get("t").asLong(), unpack(r.get("k")), unpack(r.get("v")));
                for (JsonNode h : r.withArray("h")) record.headers().add(h.get(0).asText(), unpack(h.get(1)));
                int number = waiting.size();
                waiting.add(producer.send(record, (sent, error) -> {
                    if (tells && error == null) System.out.println(JSON.createObjectNode().put("n", number).put("o", sent.offset()));
                }));
            }
            for (Future<?> each : waiting) {
                each.get();
                acked++;
            }
        }
        System.out.println(JSON.createObjectNode().put("acked", acked));
    }

    static Map<String, Object> consumerConfig(String bootstrap, String group) {
        return Map.of("bootstrap.servers", bootstrap, "group.id", group, "auto.offset.reset", "earliest",
            "enable.auto.commit", false, "session.timeout.ms", 6000, "heartbeat.interval.ms", 1000);
    }

    static KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> config) {
        return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static void show(ConsumerRecord<byte[], byte[]> r) {
        ObjectNode out = JSON.createObjectNode();
        out.put("p", r.partition()).put("o", r.offset()).put("t", r.timestamp());
        out.put("k", pack(r.key())).put("v", pack(r.value()));
        ArrayNode headers = out.putArray("h");
        for (Header h : r.headers()) headers.addArray().add(h.key()).add(pack(h.value()));
        System.out.println(out);
    }

    static void consume(String topic, int count, Map<String, Object> config) throws Exception {
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
        try (var consumer = consumer(config)) {
            consumer.subscribe(List.of(topic));
            while (!stop.get() && (count == 0 || seen < count)) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
                    show(r);
                    seen++;
                }
            }
            if (seen > 0) consumer.commitSync();
        }
    }

    static void times(String bootstrap, String topic, long timestamp) {
        try (var consumer = consumer(consumerConfig(bootstrap, "times"))) {
            Map<TopicPartition, Long> asked = new HashMap<>();
            for (PartitionInfo p : consumer.partitionsFor(topic)) asked.put(new TopicPartition(topic, p.partition()), timestamp);
            var found = consumer.offsetsForTimes(asked);
            asked.keySet().stream().sorted((a, b) -> a.partition() - b.partition()).forEach(p -> {
                var offset = found.get(p);
                System.out.println(JSON.createObjectNode().put("p", p.partition()).put("o", offset == null ? -1 : offset.offset()));
            });
        }
    }

    static void seek(String bootstrap, String topic, String[] arguments, int first) {
        var partition = new TopicPartition(topic, 0);
        try (var consumer = consumer(settings(consumerConfig(bootstrap, "seek"), new String[] {"max.poll.records=1"}, 0))) {
            consumer.assign(List.of(partition));
            for (String offset : Arrays.asList(arguments).subList(first, arguments.length)) {
                consumer.seek(partition, Long.parseLong(offset));
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofSeconds(30))) show(r);
            }
        }
    }

    static void admin(String bootstrap, String topic, String group) throws Exception {
        try (Admin client = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            String made = topic + "-made";
            var named = new ConfigResource(ConfigResource.Type.TOPIC, made);
            var partition = new TopicPartition(topic, 0);
            ObjectNode out = JSON.createObjectNode();
            client.createTopics(List.of(new NewTopic(made, 3, (short) 1).configs(Map.of("retention.ms", "3600000")))).all().get();
            out.put("partitions", client.describeTopics(List.of(made)).allTopicNames().get().get(made).partitions().size());
            out.put("retention", client.describeConfigs(List.of(named)).all().get().get(named).get("retention.ms").value());
            var change = new AlterConfigOp(new ConfigEntry("max.message.bytes", "5000"), AlterConfigOp.OpType.SET);
            client.incrementalAlterConfigs(Map.of(named, List.of(change))).all().get();
            out.put("altered", client.describeConfigs(List.of(named)).all().get().get(named).get("max.message.bytes").value());
            out.put("group", client.describeConsumerGroups(List.of(group)).all().get().get(group).groupState().toString());
            out.put("group_listed", client.listGroups().all().get().stream().anyMatch(each -> each.groupId().equals(group)));
            var up = Map.of(partition, RecordsToDelete.beforeOffset(10));
            out.put("low", client.deleteRecords(up).lowWatermarks().get(partition).get().lowWatermark());
            out.put("listed", client.listTopics().names().get().contains(made));
            client.deleteTopics(List.of(made)).all().get();
            out.put("gone", !client.listTopics().names().get().contains(made));
            System.out.println(out);
        }
    }

    public static void main(String[] a) throws Exception {
        switch (a[0]) {
            case "produce" -> produce(a[2], settings(Map.of("bootstrap.servers", a[1], "compression.type", a[3], "linger.ms", 5,
                "max.request.size", 1_040_000), a, 4));
            case "consume" -> consume(a[2], Integer.parseInt(a[4]), settings(consumerConfig(a[1], a[3]), a, 5));
            case "times" -> times(a[1], a[2], Long.parseLong(a[3]));
            case "seek" -> seek(a[1], a[2], a, 3);
            case "admin" -> admin(a[1], a[2], a[3]);
        }
    }
}
