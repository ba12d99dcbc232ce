// What the official TypeScript client 2.x makes of the server: typescript_2.mjs URL MODE. The token comes in TOKEN.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { report } from './report.mjs';

const mode = process.argv[3].startsWith('20') ? { pin: process.argv[3] } : process.argv[3];
const client = new Client({ name: 'test', version: '1' }, { versionNegotiation: { mode } });
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), { requestInit: { headers } });
await client.connect(transport);
await report(client, client.getNegotiatedProtocolVersion());
await client.close();
