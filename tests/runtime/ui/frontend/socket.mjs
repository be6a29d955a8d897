// The server's side of a WebSocket, RFC 6455: echoes, and does what a text message asks for.
import { createHash } from "node:crypto";

const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9;

export function accept(request, socket) {
  const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const offered = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((each) => each.trim());
  const chosen = offered.includes("vite-hmr") ? "sec-websocket-protocol: vite-hmr\r\n" : "";
  const digest = createHash("sha1").update(key).digest("base64");
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n" +
      `sec-websocket-accept: ${digest}\r\n${chosen}\r\n`,
  );
  let buffer = Buffer.alloc(0);
  let message = [];
  socket.on("error", () => {});
  socket.on("data", (data) => {
    buffer = Buffer.concat([buffer, data]);
    for (let frame; (frame = next(buffer)); buffer = buffer.subarray(frame.size)) {
      if (frame.opcode === CLOSE) {
        send(socket, CLOSE, frame.payload);
        socket.end();
        lastClose = frame.payload.length >= 2 ? frame.payload.readUInt16BE(0) : null;
      } else if (frame.opcode <= BINARY) {
        message.push(frame);
        if (!frame.final) continue;
        const payload = Buffer.concat(message.map((each) => each.payload));
        answer(request, socket, message[0].opcode, payload);
        message = [];
      }
    }
  });
}

let lastClose = null;

function answer(request, socket, opcode, payload) {
  const text = opcode === TEXT ? payload.toString() : "";
  if (text.startsWith("close ")) {
    const [code, ...reason] = text.slice(6).split(" ");
    const body = Buffer.from("  " + reason.join(" "));
    body.writeUInt16BE(Number(code));
    send(socket, CLOSE, body);
  } else if (text === "headers") {
    send(socket, TEXT, Buffer.from(JSON.stringify({ url: request.url, ...request.headers })));
  } else if (text === "last close") {
    send(socket, TEXT, Buffer.from(String(lastClose)));
  } else if (text === "ping") {
    send(socket, PING, Buffer.from("p"));
    send(socket, TEXT, Buffer.from("after the ping"));
  } else if (text === "send 17 MiB") {
    send(socket, BINARY, Buffer.alloc(17 * 1024 * 1024));
  } else if (text === "reset") {
    socket.destroy();
  } else {
    send(socket, opcode, payload);
  }
}

function next(buffer) {
  if (buffer.length < 2) return null;
  const final = (buffer[0] & 128) !== 0, opcode = buffer[0] & 15, masked = (buffer[1] & 128) !== 0;
  let length = buffer[1] & 127, offset = 2;
  const extra = { 126: 2, 127: 8 }[length] ?? 0;
  if (buffer.length < offset + extra + 4) return null;
  if (extra === 2) length = buffer.readUInt16BE(2);
  if (extra === 8) length = Number(buffer.readBigUInt64BE(2));
  offset += extra;
  const mask = masked ? buffer.subarray(offset, (offset += 4)) : null;
  if (buffer.length < offset + length) return null;
  const payload = Buffer.from(buffer.subarray(offset, offset + length));
  if (mask) for (let i = 0; i < length; i++) payload[i] ^= mask[i & 3];
  return { final, opcode, payload, size: offset + length };
}

function send(socket, opcode, payload) {
  const length = payload.length;
  let head;
  if (length < 126) head = Buffer.from([128 | opcode, length]);
  else if (length < 65536) {
    head = Buffer.from([128 | opcode, 126, 0, 0]);
    head.writeUInt16BE(length, 2);
  } else {
    head = Buffer.alloc(10);
    head[0] = 128 | opcode;
    head[1] = 127;
    head.writeBigUInt64BE(BigInt(length), 2);
  }
  socket.write(Buffer.concat([head, payload]));
}
