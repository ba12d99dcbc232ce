// What the official TypeScript client 1.x makes of the server: typescript_1.mjs URL. The token comes in TOKEN.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { report } from './report.mjs';

const client = new Client({ name: 'test', version: '1' });
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), { requestInit: { headers } });
await client.connect(transport);
await report(client, transport.protocolVersion);
await client.ping();
await client.close();
