// Driver for kafkajs; its line format is in ../README.md.
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
const readline = require("readline");
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = new (require("kafkajs-lz4"))().codec;

const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4 };
const pack = (buffer) => (buffer === null || buffer === undefined ? null : buffer.toString("base64"));
const unpack = (text) => (text === null ? null : Buffer.from(text, "base64"));
const write = (object) => process.stdout.write(JSON.stringify(object) + "\n");

async function produce(kafka, topic, codec) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const messages = [];
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const record = JSON.parse(line);
    const message = { key: unpack(record.k), value: unpack(record.v), timestamp: String(record.t), headers: {} };
    for (const [name, value] of record.h || []) message.headers[name] = unpack(value);
    if (record.p !== null && record.p !== undefined) message.partition = record.p;
    messages.push(message);
  }
  // kafkajs sends what it is given as one batch a partition, so the sender keeps batches under the topic's limit
  let batch = [];
  let size = 0;
  const send = async () => {
    if (batch.length) await producer.send({ topic, acks: -1, compression: codecs[codec], messages: batch });
    batch = [];
    size = 0;
  };
  for (const message of messages) {
    const length = (message.value ? message.value.length : 0) + 200;
    if (size + length > 900000) await send();
    batch.push(message);
    size += length;
  }
  await send();
  await producer.disconnect();
  write({ acked: messages.length });
}

async function consume(kafka, topic, groupId, count) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 1000 });
  let seen = 0;
  let leave;
  const left = new Promise((resolve) => (leave = resolve));
  process.stdin.on("data", () => {}).on("end", leave);
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      if (count && seen >= count) return;
      const h = [];
      for (const [name, value] of Object.entries(message.headers || {}))
        for (const each of Array.isArray(value) ? value : [value]) h.push([name, pack(each)]);
      write({ p: partition, o: Number(message.offset), t: Number(message.timestamp), k: pack(message.key), v: pack(message.value), h });
      seen += 1;
      await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }]);
      if (count && seen >= count) leave();
    },
  });
  await left;
  await consumer.disconnect();
  process.stdout.write("", () => process.exit(0));
}

async function times(kafka, topic, timestamp) {
  const admin = kafka.admin();
  await admin.connect();
  const ends = new Map((await admin.fetchTopicOffsets(topic)).map((p) => [p.partition, p.high]));
  const found = await admin.fetchTopicOffsetsByTimestamp(topic, timestamp);
  // kafkajs answers with the end offset where no record is new enough
  for (const { partition, offset } of found.sort((a, b) => a.partition - b.partition))
    write({ p: partition, o: offset === ends.get(partition) ? -1 : Number(offset) });
  await admin.disconnect();
}

const [command, bootstrap, topic, ...rest] = process.argv.slice(2);
const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR });
const run = { produce: () => produce(kafka, topic, rest[0]), consume: () => consume(kafka, topic, rest[0], Number(rest[1])), times: () => times(kafka, topic, Number(rest[0])) };
run[command]().catch((error) => {
  console.error(error);
  process.exit(1);
});
