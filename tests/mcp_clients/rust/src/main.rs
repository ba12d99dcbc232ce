//! What the official Rust client makes of the server: rust-client URL MODE. The token comes in TOKEN.

use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{RoleClient, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt};
use serde_json::{Map, Value, json};

struct Client;

impl ClientHandler for Client {}

fn lifecycle(mode: &str) -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    match mode {
        "legacy" => ClientLifecycleMode::Initialize,
        "auto" => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
        _ => ClientLifecycleMode::Discover { preferred_versions },
    }
}

async fn call(client: &RunningService<RoleClient, Client>, tool: &str, arguments: Value) -> Value {
    let arguments: Map<String, Value> = arguments.as_object().cloned().unwrap_or_default();
    let request = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
    match client.call_tool(request).await {
        Ok(result) => {
            let result = json!(result);
            json!({
                "isError": result["isError"],
                "structuredContent": result["structuredContent"],
                "text": result["content"][0]["text"],
            })
        }
        Err(ServiceError::McpError(error)) => json!({ "error": error.message, "code": error.code.0 }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (url, mode) = (arguments.next().ok_or("no URL")?, arguments.next().unwrap_or_default());
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(std::env::var("TOKEN")?);
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = Client.serve_with_lifecycle(transport, lifecycle(&mode)).await?;
    let server = json!(client.peer_info().as_deref());
    let tools = client.list_all_tools().await?;
    let seen = json!({
        "protocol": server["protocolVersion"],
        "server": server["serverInfo"]["name"],
        "instructions": server["instructions"],
        "tools": tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(),
        "get_stats": call(&client, "get_stats", json!({})).await,
        "get_status": call(&client, "get_status", json!({})).await,
        "extra_argument": call(&client, "get_stats", json!({ "since": "yesterday" })).await,
        "unknown_tool": call(&client, "get_secrets", json!({})).await,
    });
    println!("{seen}");
    Ok(())
}
