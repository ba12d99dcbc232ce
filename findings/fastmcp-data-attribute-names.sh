#!/usr/bin/env bash
# fastmcp 4.2.3: result.data.api_v1 holds the value of "api-v1", and one leap second empties result.data altogether
#
# Seen with fastmcp 4.2.3 and mcp 2.3.0 (PyPI) under Python 3.11.
#
# The client of fastmcp turns structuredContent into an object whose attributes are made from the output schema.
# - A tool returns {"api-v1": 1, "api_v1": 2}, counts by service, and both names are in its schema. "api_v1" is a
#   perfect attribute name, but it goes to whichever comes first in the schema: data.api_v1 is 1, and the 2 is in
#   data.api_v1_2. A schema kept as jsonb always has the dash first. Likewise "class" and "class_", "*/*" and "field".
# - A property of format date-time holds 2016-12-31T23:59:60Z, which RFC 3339 gives as its example of a leap second.
#   The result is no error, structured_content is whole, and data is None, for the other properties too.
# - A duration of P1M, a month, becomes 30 days.
#
# Wrong guess: a name that needs no change keeps its own attribute, and a value that Python cannot hold stays a string.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check fastmcp==4.2.3 mcp==2.3.0

cat >"$dir/client.py" <<'END'
import asyncio
import json

from fastmcp import Client, FastMCP
from fastmcp.tools import Tool, ToolResult

server = FastMCP("service")
INTEGER = {"type": "integer"}


def tool(name, properties, value):
    class Fixed(Tool):
        async def run(self, arguments):
            return ToolResult(content=json.dumps(value), structured_content=value)

    server.add_tool(Fixed(
        name=name,
        parameters={"type": "object", "properties": {}},
        output_schema={"type": "object", "properties": properties, "required": list(properties)},
    ))


counts = {"api-v1": 1, "api_v1": 2}
tool("dash_first", {"api-v1": INTEGER, "api_v1": INTEGER}, counts)
tool("dash_last", {"api_v1": INTEGER, "api-v1": INTEGER}, counts)
tool("keyword", {"class": INTEGER, "class_": INTEGER}, {"class": 1, "class_": 2})
tool("media_type", {"*/*": INTEGER, "field": INTEGER}, {"*/*": 1, "field": 2})
at = {"type": "string", "format": "date-time"}
tool("second_59", {"at": at, "total": INTEGER}, {"at": "2016-12-31T23:59:59Z", "total": 7})
tool("second_60", {"at": at, "total": INTEGER}, {"at": "2016-12-31T23:59:60Z", "total": 7})
tool("month", {"age": {"type": "string", "format": "duration"}}, {"age": "P1M"})


async def main():
    async with Client(server) as client:
        for tool in await client.list_tools():
            result = await client.call_tool(tool.name, {}, raise_on_error=False)
            data = result.data and {name: str(value) for name, value in vars(result.data).items()}
            print(tool.name, result.is_error, json.dumps(result.structured_content), data)


asyncio.run(main())
END
"$dir/venv/bin/python" "$dir/client.py" 2>/dev/null >"$dir/seen"

diff -u - "$dir/seen" <<'END'
dash_first False {"api-v1": 1, "api_v1": 2} {'api_v1': '1', 'api_v1_2': '2'}
dash_last False {"api-v1": 1, "api_v1": 2} {'api_v1': '2', 'api_v1_2': '1'}
keyword False {"class": 1, "class_": 2} {'class_': '1', 'class__2': '2'}
media_type False {"*/*": 1, "field": 2} {'field': '1', 'field_2': '2'}
second_59 False {"at": "2016-12-31T23:59:59Z", "total": 7} {'at': '2016-12-31 23:59:59+00:00', 'total': '7'}
second_60 False {"at": "2016-12-31T23:59:60Z", "total": 7} None
month False {"age": "P1M"} {'age': '30 days, 0:00:00'}
END
echo "as described"
