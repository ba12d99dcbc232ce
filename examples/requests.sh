#!/bin/sh
# Every call of the API once. TOKEN is an access token; API is where PostgREST is (Supabase: https://HOST/rest/v1).
set -eu
api=${API:-http://127.0.0.1:3000}
: "${TOKEN:?set it to an access token, such as \$(examples/token SUB)}"

call() { curl -sS --fail-with-body -H "Authorization: Bearer $TOKEN" -H "apikey: $TOKEN" "$@"; echo; }
mcp() { call -X POST "$api/rpc/mcp" -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' -d "$1"; }

echo '> Statistics, computed at this moment'
call -X POST "$api/rpc/get_stats" -H 'content-type: application/json' -d '{}'
echo '> Statistics, as last refreshed'
call "$api/service_stats?id=eq.1&select=snapshot"
echo '> Status, as last written'
call "$api/service_status?id=eq.1&select=snapshot"
echo '> The same two by MCP'
mcp '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_stats","arguments":{}}}'
mcp '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"get_status","arguments":{}}}'
