// The smallest front end: one page, served with what Node.js brings. Any framework does, as long as
// its script "dev" listens on PORT and serves below LLAMA_DEPLOY_NEXTJS_BASE_PATH.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

const { PORT, HOST, LLAMA_DEPLOY_NEXTJS_BASE_PATH: base } = process.env;

createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === base) {
    response.writeHead(308, { location: `${base}/` }).end();
  } else if (pathname === `${base}/`) {
    const page = await readFile("index.html");
    response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page);
  } else {
    response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
  }
}).listen(PORT, HOST, () => console.log(`serving ${base}/ on port ${PORT}`));
