// Node, the shortest echo there is. libuv closes waiting clients when descriptors run out, and garbage
// collection comes when it likes, so it is held to the first steps of 01 alone.
const net = require("net");
const server = net.createServer({ allowHalfOpen: true }, (client) => {
  client.on("error", () => client.destroy());
  client.setNoDelay(true);
  client.pipe(client);
});
const [port, host] = process.argv.slice(2).filter((argument) => argument !== "-q");
server.on("error", (error) => {
  console.error(`port ${port}: ${error.message}`);
  process.exit(1);
});
server.listen(Number(port), host || "127.0.0.1", 4096, () => {
  console.log(`starting up on ${server.address().address} port ${server.address().port}`);
});
