// Driver for kafkajs; its line format is in ../README.md.
const { Kafka, ConfigResourceTypes, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
const readline = require("readline");
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = new (require("kafkajs-lz4"))().codec;

const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4 };
const pack = (buffer) => (buffer === null || buffer === undefined ? null : buffer.toString("base64"));
const unpack = (text) => (text === null ? null : Buffer.from(text, "base64"));
const write = (object) => process.stdout.write(JSON.stringify(object) + "\n");

async function produce(kafka, topic, codec, acks = "all") {
  const producer = kafka.producer({ idempotent: acks === "all", maxInFlightRequests: 1 });
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
    if (batch.length) await producer.send({ topic, acks: acks === "all" ? -1 : Number(acks), compression: codecs[codec], messages: batch });
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

const show = (partition, message) => {
  const h = [];
  for (const [name, value] of Object.entries(message.headers || {}))
    for (const each of Array.isArray(value) ? value : [value]) h.push([name, pack(each)]);
  write({ p: partition, o: Number(message.offset), t: Number(message.timestamp), k: pack(message.key), v: pack(message.value), h });
};

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
      show(partition, message);
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

// kafkajs consumes in groups only; a seek takes effect with the next message
async function seek(kafka, topic, offsets) {
  const consumer = kafka.consumer({ groupId: `${topic}-seek` });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  let leave;
  const left = new Promise((resolve) => (leave = resolve));
  let next = 0;
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      if (partition !== 0 || next === offsets.length || message.offset !== offsets[next]) return;
      show(partition, message);
      next += 1;
      if (next === offsets.length) leave();
      else consumer.seek({ topic, partition: 0, offset: offsets[next] });
    },
  });
  consumer.seek({ topic, partition: 0, offset: offsets[0] });
  await left;
  await consumer.disconnect();
}

async function admin(kafka, topic, group) {
  const client = kafka.admin();
  await client.connect();
  const made = `${topic}-made`;
  const config = async (name) => {
    const { resources } = await client.describeConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: made }], includeSynonyms: false });
    return resources[0].configEntries.find((entry) => entry.configName === name).configValue;
  };
  await client.createTopics({ topics: [{ topic: made, numPartitions: 3, configEntries: [{ name: "retention.ms", value: "3600000" }] }] });
  const { topics } = await client.fetchTopicMetadata({ topics: [made] });
  const retention = await config("retention.ms");
  await client.alterConfigs({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: made, configEntries: [{ name: "max.message.bytes", value: "5000" }] }] });
  const altered = await config("max.message.bytes");
  await client.fetchTopicOffsets(topic);
  await client.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "10" }] });
  const low = Number((await client.fetchTopicOffsets(topic)).find((each) => each.partition === 0).low);
  const described = (await client.describeGroups([group])).groups[0].state;
  const groupListed = (await client.listGroups()).groups.some((each) => each.groupId === group);
  const listed = (await client.listTopics()).includes(made);
  await client.deleteTopics({ topics: [made] });
  const gone = !(await client.listTopics()).includes(made);
  write({ partitions: topics[0].partitions.length, retention, altered, group: described, group_listed: groupListed, low, listed, gone });
  await client.disconnect();
}

const [command, bootstrap, topic, ...rest] = process.argv.slice(2);
const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR });
const settings = (given) => Object.fromEntries(given.map((each) => each.split("=", 2)));
const run = {
  produce: () => produce(kafka, topic, rest[0], settings(rest.slice(1)).acks),
  consume: () => consume(kafka, topic, rest[0], Number(rest[1])),
  times: () => times(kafka, topic, Number(rest[0])),
  seek: () => seek(kafka, topic, rest),
  admin: () => admin(kafka, topic, rest[0]),
};
run[command]().catch((error) => {
  console.error(error);
  process.exit(1);
});
