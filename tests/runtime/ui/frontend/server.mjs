// A front end for tests: HTTP, server-sent events and WebSockets with what Node.js brings.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { gzipSync } from "node:zlib";
import { accept } from "./socket.mjs";

const base = process.env.LLAMA_DEPLOY_NEXTJS_BASE_PATH;
const host = process.env.TEST_HOST ?? process.env.HOST;
const waiting = new Set(); // event streams that have not sent their last event
let closed = 0; // event streams whose client went away

const json = (response, data, status = 200) => {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(data));
};

const routes = {
  hello: (request, response) =>
    json(response, {
      deployment: process.env.LLAMA_DEPLOY_NEXTJS_DEPLOYMENT_NAME,
      greeting: process.env.GREETING,
      port: process.env.PORT,
      pid: process.pid,
      folder: process.cwd(),
      environ: Object.keys(process.env),
      method: request.method,
      url: request.url,
      headers: request.headers,
      version: process.env.VERSION ?? null,
    }),
  echo: (request, response) => {
    response.writeHead(200, { "content-type": "application/octet-stream" });
    request.pipe(response);
  },
  count: async (request, response) => {
    const hash = createHash("sha256");
    let bytes = 0;
    for await (const chunk of request) {
      bytes += chunk.length;
      hash.update(chunk);
    }
    json(response, { bytes, sha256: hash.digest("hex"), length: request.headers["content-length"] });
  },
  download: (request, response, query) => {
    let left = Number(query.get("mib"));
    const piece = Buffer.alloc(1024 * 1024, 7);
    const more = () => {
      while (left-- > 0) if (!response.write(piece)) return response.once("drain", more);
      response.end();
    };
    response.writeHead(200, { "content-length": left * piece.length });
    more();
  },
  events: (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.write("data: first\n\n");
    waiting.add(response);
    response.on("close", () => {
      if (waiting.delete(response)) closed += 1;
    });
  },
  release: (request, response) => {
    for (const each of [...waiting]) {
      waiting.delete(each);
      each.end("data: last\n\n");
    }
    json(response, {});
  },
  closed: (request, response) => json(response, { closed }),
  redirect: (request, response, query) => {
    response.writeHead(307, { location: query.get("to").replace("PORT", process.env.PORT) });
    response.end();
  },
  cookies: (request, response) => {
    response.setHeader("set-cookie", ["a=1; Path=/", "b=2; HttpOnly"]);
    response.setHeader("connection", "x-hop, close");
    response.setHeader("x-hop", "dropped");
    response.setHeader("x-end", "kept");
    json(response, { cookie: request.headers.cookie });
  },
  gzip: (request, response) => {
    response.writeHead(200, { "content-encoding": "gzip" });
    response.end(gzipSync("unpacked ".repeat(1000)));
  },
  nothing: (request, response) => {
    response.writeHead(304, { etag: '"1"' });
    response.end();
  },
  broken: (request, response) => {
    response.writeHead(200, { "content-length": 1000 });
    response.write("half", () => response.destroy());
  },
  reset: (request) => request.socket.destroy(),
};

const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://any");
  const route = routes[pathname.slice(base.length + 1).split("/")[0]];
  if (route) route(request, response, searchParams);
  else json(response, { nothing_at: request.url }, 404);
});

server.on("upgrade", (request, socket) => {
  if (request.url.startsWith(`${base}/socket`)) accept(request, socket);
  else socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
});

server.listen(Number(process.env.PORT), host, () => console.log(`listening on ${process.env.PORT}`));
