"""What the official Python client 2.x makes of the server: python_2.py URL MODE. The token comes in TOKEN."""

import asyncio
import os
import sys

from mcp import Client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

from report import report


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with create_mcp_http_client(headers=headers) as http_client:
        transport = streamable_http_client(sys.argv[1], http_client=http_client)
        async with Client(transport, mode=sys.argv[2]) as client:
            # A pinned version asks nothing at connection, so knows nothing of the server before its first answer.
            await client.list_tools()
            server = client.server_info
            await report(client, client.protocol_version, server and server.name, client.instructions)


asyncio.run(main())
