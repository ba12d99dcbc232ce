"""Prints, as JSON, what a connected client sees of the server."""

import json


async def call(client, name, arguments):
    try:
        result = await client.call_tool(name, arguments)
    except Exception as error:  # Each version has its own kinds.
        inner = getattr(error, "error", None)
        return {"error": str(error), "code": getattr(inner, "code", None)}
    fields = result.model_dump(by_alias=True)
    return {
        "isError": fields["isError"],
        "structuredContent": fields.get("structuredContent"),
        "text": fields["content"][0]["text"],
    }


async def report(client, protocol, server, instructions):
    # The client keeps each tool's outputSchema from here, and holds results against it.
    tools = (await client.list_tools()).tools
    seen = {
        "protocol": protocol,
        "server": server,
        "instructions": instructions,
        "tools": [tool.name for tool in tools],
        "get_stats": await call(client, "get_stats", {}),
        "get_status": await call(client, "get_status", {}),
        "extra_argument": await call(client, "get_stats", {"since": "yesterday"}),
        "unknown_tool": await call(client, "get_secrets", {}),
    }
    print(json.dumps(seen))
