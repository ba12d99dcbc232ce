"""What the official Python client 1.x makes of the server: python_1.py URL. The token comes in TOKEN."""

import asyncio
import os
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from report import report


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with streamablehttp_client(sys.argv[1], headers=headers) as (read, write, _):
        async with ClientSession(read, write) as session:
            greeting = await session.initialize()
            await session.send_ping()
            await report(session, greeting.protocolVersion, greeting.serverInfo.name, greeting.instructions)


asyncio.run(main())
