-- The MCP server. PostgREST hands the body of a POST to the function with one unnamed argument; GET, and a POST of
-- nothing, find the one without. It sends a domain of this name as it is, whatever the client accepts; both overloads
-- must return it. Except for application/vnd.pgrst.object+json: it then makes JSON of the value itself, so that text would
-- arrive as a string, and json arrives as what it holds. null is an empty body.

create domain busymate_stats."*/*" as json;
comment on domain busymate_stats."*/*" is 'A response body of JSON, for PostgREST to send as it is.';

create function public.mcp(jsonb) returns busymate_stats."*/*"
    language c volatile
    as 'MODULE_PATHNAME', 'mcp_post_wrapper';
comment on function public.mcp(jsonb) is
    'An MCP server with the tools get_stats and get_status: send one JSON-RPC message as the body. Revisions 2026-07-28 and 2025-11-25, 2025-06-18, 2025-03-26.';

create function public.mcp() returns busymate_stats."*/*"
    language c volatile
    as 'MODULE_PATHNAME', 'mcp_get_wrapper';
comment on function public.mcp() is
    'Tells an MCP client that opens a stream with GET that there is none: 405, Allow: POST.';
