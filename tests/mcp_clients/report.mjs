// Prints, as JSON, what a connected client sees of the server.
async function call(client, name, args) {
    try {
        const { isError, structuredContent, content } = await client.callTool({ name, arguments: args });
        return { isError, structuredContent, text: content[0].text };
    } catch (error) {
        return { error: error.message, code: error.code };
    }
}

export async function report(client, protocol) {
    // The client keeps each tool's outputSchema from here, and holds results against it.
    const { tools } = await client.listTools();
    const seen = {
        protocol,
        server: client.getServerVersion()?.name,
        instructions: client.getInstructions(),
        tools: tools.map((tool) => tool.name),
        get_stats: await call(client, 'get_stats', {}),
        get_status: await call(client, 'get_status', {}),
        extra_argument: await call(client, 'get_stats', { since: 'yesterday' }),
        unknown_tool: await call(client, 'get_secrets', {}),
    };
    console.log(JSON.stringify(seen));
}
