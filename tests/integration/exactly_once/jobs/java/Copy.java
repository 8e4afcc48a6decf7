// The copy job with Apache Kafka's Java client; its arguments and lines are in ../README.md.
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Copy {
    static final ObjectMapper JSON = new ObjectMapper();
    static final PrintStream OUT = new PrintStream(System.out, false);

    static synchronized void write(String event, Object... fields) {
        var line = new LinkedHashMap<String, Object>();
        line.put("e", event);
        line.put("t", now());
        for (int i = 0; i < fields.length; i += 2) line.put((String) fields[i], fields[i + 1]);
        try {
            OUT.println(JSON.writeValueAsString(line));
        } catch (java.io.IOException impossible) {
            throw new IllegalStateException(impossible);
        }
        OUT.flush();
    }

    static double now() {
        Instant now = Instant.now();
        return now.getEpochSecond() + now.getNano() / 1e9;
    }

    interface Call { void run(); }

    /** The transactional calls may be repeated when they time out. */
    static void insist(Call call) {
        while (true) {
            try {
                call.run();
                return;
            } catch (TimeoutException error) {
                write("error", "fatal", false, "text", error.toString());
            }
        }
    }

    static void writePoll(KafkaConsumer<String, String> consumer, ConsumerRecords<String, String> records) {
        var told = new ArrayList<List<Object>>();
        for (var r : records) told.add(List.of(r.partition(), r.offset(), r.value()));
        var positions = new ArrayList<List<Object>>();
        for (TopicPartition place : consumer.assignment()) {
            // of the others it may not be known yet, and asking would wait for it
            if (!records.records(place).isEmpty()) positions.add(List.of(place.partition(), consumer.position(place)));
        }
        if (!told.isEmpty()) write("poll", "r", told, "at", positions);
    }

    static final class Job implements ConsumerRebalanceListener {
        final Map<String, String> options;
        final Random chance;
        final KafkaProducer<String, String> producer;
        final KafkaConsumer<String, String> consumer;
        final List<List<Object>> acks = Collections.synchronizedList(new ArrayList<>());
        int sent = 0;

        Job(Map<String, String> options) {
            this.options = options;
            chance = new Random(Long.parseLong(options.get("seed")));
            producer = new KafkaProducer<>(Map.of("bootstrap.servers", options.get("bootstrap"), "transactional.id", options.get("transactional.id"),
                "transaction.timeout.ms", options.get("transaction.timeout.ms"), "max.block.ms", "5000", "reconnect.backoff.ms", "20",
                "reconnect.backoff.max.ms", "200"), new StringSerializer(), new StringSerializer());
            var config = new HashMap<String, Object>(Map.of("bootstrap.servers", options.get("bootstrap"), "group.id", options.get("group"),
                "isolation.level", "read_committed", "enable.auto.commit", "false", "auto.offset.reset", "earliest", "max.poll.records", "40",
                "reconnect.backoff.ms", "20", "reconnect.backoff.max.ms", "200"));
            if ("consumer".equals(options.get("group.protocol"))) config.put("group.protocol", "consumer");
            else config.putAll(Map.of("session.timeout.ms", options.get("session.timeout.ms"), "heartbeat.interval.ms", "500"));
            consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
        }

        void run(AtomicBoolean stop) throws InterruptedException {
            insist(producer::initTransactions);
            write("ready");
            consumer.subscribe(List.of(options.get("input")), this);
            while (!stop.get()) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                writePoll(consumer, records);
                if (!records.isEmpty()) copy(records);
            }
            consumer.close();
            producer.close();
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            rewind(partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {}

        /** Go on from the commits, when no transaction can change them any more. */
        void rewind(Collection<TopicPartition> partitions) {
            if (partitions.isEmpty()) return;
            var found = new HashMap<TopicPartition, OffsetAndMetadata>();
            insist(() -> found.putAll(consumer.committed(new java.util.HashSet<>(partitions), Duration.ofSeconds(5))));
            for (TopicPartition place : partitions) {
                OffsetAndMetadata at = found.get(place);
                write("assigned", "p", place.partition(), "o", at == null ? 0 : at.offset());
                consumer.seek(place, at == null ? 0 : at.offset());
            }
        }

        void copy(ConsumerRecords<String, String> records) throws InterruptedException {
            boolean aborts = chance.nextInt(100) < Integer.parseInt(options.get("abort.percent"));
            int stage = chance.nextInt(3);
            try {
                producer.beginTransaction();
                send(records);
                if (!(aborts && stage == 0)) {
                    if (aborts || chance.nextBoolean()) {
                        producer.flush();
                        writeAcks();
                    }
                    Thread.sleep(chance.nextInt(30));
                    if (!aborts || stage == 2) insist(() -> producer.sendOffsetsToTransaction(records.nextOffsets(), consumer.groupMetadata()));
                }
                if (!aborts) {
                    write("commit");
                    insist(producer::commitTransaction);
                    writeAcks();
                    write("end", "outcome", "committed");
                    return;
                }
            } catch (ProducerFencedException | IllegalStateException fenced) {
                throw fenced;
            } catch (KafkaException error) {
                write("error", "fatal", false, "text", error.toString());
            }
            insist(producer::abortTransaction);
            writeAcks();
            write("end", "outcome", "aborted");
            rewind(consumer.assignment());
        }

        void writeAcks() {
            synchronized (acks) {
                write("acks", "s", acks);
            }
        }

        void send(ConsumerRecords<String, String> records) {
            acks.clear();
            var sends = new ArrayList<List<Object>>();
            var copies = new ArrayList<ProducerRecord<String, String>>();
            for (ConsumerRecord<String, String> r : records) {
                String id = options.get("name") + "-" + ++sent;
                int partition = chance.nextInt(Integer.parseInt(options.get("partitions")));
                sends.add(List.of(id, partition, r.value()));
                copies.add(new ProducerRecord<>(options.get("output"), partition, r.key(), id + "|" + r.value()));
            }
            write("sends", "s", sends);
            for (int i = 0; i < copies.size(); i++) {
                Object id = sends.get(i).get(0);
                producer.send(copies.get(i), (at, error) -> {
                    if (error == null && at.hasOffset()) acks.add(List.of(id, at.offset()));
                });
            }
        }
    }

    static void read(Map<String, String> options) {
        Map<String, Object> config = Map.of("bootstrap.servers", options.get("bootstrap"), "isolation.level", options.get("isolation"));
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> places = IntStream.range(0, Integer.parseInt(options.get("partitions"))).mapToObj(p -> new TopicPartition(options.get("topic"), p)).toList();
            consumer.assign(places);
            consumer.seekToBeginning(places);
            Map<TopicPartition, Long> ends = consumer.endOffsets(places);
            for (TopicPartition place : places) write("assigned", "p", place.partition(), "o", consumer.position(place));
            while (places.stream().anyMatch(place -> consumer.position(place) < ends.get(place))) writePoll(consumer, consumer.poll(Duration.ofMillis(200)));
            for (TopicPartition place : places) write("poll", "r", List.of(), "at", List.of(List.of(place.partition(), consumer.position(place))));
        }
    }

    public static void main(String[] arguments) throws Exception {
        var options = new HashMap<String, String>();
        for (String each : Arrays.asList(arguments).subList(1, arguments.length)) options.put(each.split("=", 2)[0], each.split("=", 2)[1]);
        if (arguments[0].equals("read")) {
            read(options);
            return;
        }
        var stop = new AtomicBoolean();
        var watcher = new Thread(() -> {
            try {
                while (System.in.read() >= 0) continue;
            } catch (java.io.IOException closed) {
                // as good as its end
            }
            stop.set(true);
        });
        watcher.setDaemon(true);
        watcher.start();
        try {
            new Job(options).run(stop);
        } catch (KafkaException | IllegalStateException error) {
            write("error", "fatal", true, "text", error.toString());
            Runtime.getRuntime().halt(3);
        }
    }
}
