// MQTT.js against a listener: subscribe (plainly and shared), publish at QoS 0, 1 and 2, and print what came back.
//   node mqtt_js.cjs PORT VERSION   (VERSION: 4 or 5; NODE_PATH has the package)
"use strict";

const mqtt = require("mqtt");

async function main() {
  const [port, version] = process.argv.slice(2).map(Number);
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, {
    protocolVersion: version,
    clientId: "js",
    reconnectPeriod: 0,
    ...(version === 5 && { properties: { receiveMaximum: 10 } }),
  });
  const got = [];
  const all = new Promise((resolve) => {
    client.on("message", (topic, payload, packet) => {
      got.push(`${topic} ${payload} ${packet.qos}`);
      if (got.length === 6) resolve();
    });
  });
  const granted = await client.subscribeAsync({ "line/#": { qos: 2 }, "$share/group/line/+": { qos: 1 } });
  console.log(granted.map((one) => one.qos).join(" "));
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(`line/${qos}`, `message ${qos}`, { qos });
  }
  await all;
  await client.endAsync();
  console.log(got.sort().join("\n"));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
